"""What is checked in is what the generator makes of the .proto files."""

from pathlib import Path

import pytest

import forwarder
from forwarder.api import generate

ROOT = Path(forwarder.__file__).parent


def test_generated_modules_are_up_to_date(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is missing")
    made = generate.generate(tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in made} == {
        path.relative_to(ROOT).as_posix() for room in ("api", "rpc") for path in (ROOT / room).glob("*_pb2*.py*")
    }
    for path in made:
        text, present = path.read_text(), (ROOT / path.relative_to(tmp_path)).read_text()
        assert text == present, f"{path.name}: run python -m forwarder.api.generate"


def test_generated_modules_import_from_the_package() -> None:
    text = "import connection_pb2 as connection__pb2\nimport other_pb2\nimport connection_pb2_extra\n"
    assert generate.name_package(text, ["connection"]) == (
        "from forwarder.api import connection_pb2 as connection__pb2\nimport other_pb2\nimport connection_pb2_extra\n"
    )
