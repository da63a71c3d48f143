"""The README says what is so."""

import json
import re
from pathlib import Path

import pytest

from forwarder import config
from forwarder.cli import COMMANDS
from tests.support.readme import README, RESULTS, render

ROOT = Path(__file__).parents[3]
TEXT = README.read_text()
BLOCKS = "\n".join(
    text for kind, text in re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE) if not kind
)
"""The commands; what they print is in blocks marked as text."""


def make_targets() -> set[str]:
    """Returns the targets of the Makefile, those made from lists included."""
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    names = re.search(r"^SUITES := (.*)$", makefile, flags=re.MULTILINE)
    assert names
    return targets | {f"test-{name}" for name in names[1].split()}


def test_every_make_command_in_the_readme_is_a_target() -> None:
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", TEXT))
    assert {"run", "test", "bench", "lint"} <= named
    assert named <= make_targets()


def test_every_program_in_the_readme_s_commands_exists() -> None:
    named = set(re.findall(r"\bvwire ([a-z]+)", BLOCKS))
    assert {"forwarder", "client"} <= named <= set(COMMANDS)


def test_every_environment_variable_in_the_readme_s_commands_is_a_setting() -> None:
    known = {
        config.variable(name, field)
        for program in config.PROGRAMS.values()
        for name, field in program.model_fields.items()
    }
    assert set(re.findall(r"\b(NSM_[A-Z_]+)=", BLOCKS)) <= known


def test_every_setting_has_a_description() -> None:
    for program in config.PROGRAMS.values():
        for name, field in program.model_fields.items():
            assert field.description, f"{program.__name__}.{name}"


def test_settings_and_numbers_are_those_of_their_sources() -> None:
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    assert render(TEXT, results) == TEXT, "run: make docs"


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", TEXT))))
def test_a_link_of_the_readme_leads_somewhere(link: str) -> None:
    assert link.startswith("https://") or (ROOT / link).exists()
