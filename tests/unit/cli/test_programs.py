"""The command line: help made from the settings, and errors that are one clear line."""

import logging

import pytest
from click.testing import CliRunner

from forwarder import cli, config
from forwarder.cli import program
from forwarder.errors import ConfigError, InvalidRequest, NextHopError


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch):
    for settings in config.PROGRAMS.values():
        for name, field in settings.model_fields.items():
            monkeypatch.delenv(config.variable(name, field), raising=False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def invoke(*arguments):
    return CliRunner().invoke(cli.main, arguments, env={"COLUMNS": "400", "TERMINAL_WIDTH": "400"})


def test_the_list_of_programs_has_every_program():
    result = invoke("--help")
    assert result.exit_code == 0
    assert all(name in result.output for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_program_has_help(name):
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert result.output


@pytest.mark.parametrize(("name", "without"), [
    ("forwarder", set()), ("client", {"network_services"}), ("endpoint", set()), ("up", set()),
    ("authority", set()),
])  # fmt: skip
def test_help_tells_every_setting_as_the_readme_does(name, without):
    told = invoke(name, "--help").output
    for row in config.describe(config.PROGRAMS[name]):
        if row.field not in without:
            assert row.flag in told
            assert row.variable in told
            assert row.description.split(":")[0][:40] in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["client", "--insecure"], "there is nothing to connect to"),
        (["client", "kernel//web", "--insecure"], "network service URL 'kernel//web'"),
        (["client", "kernel://web"], "say --insecure"),
        (["client", "kernel://web", "--dial-timeout", "soon"], "--dial-timeout='soon' cannot be used"),
        (["client", "kernel://web", "--insecure", "--netns", "no-such-namespace"], "network namespace 'no-such-names"),
        (["client", "kernel://web", "--insecure", "--netns", "/dev/null"], "network namespace '/dev/null'"),
        (["forwarder"], "SPIFFE_ENDPOINT_SOCKET is not set"),
        (["forwarder", "--spiffe-endpoint-socket", "/x", "--registry-client-policies", "no.rego"], "policy 'no.rego'"),
        (["forwarder", "--insecure", "--connect-to", "nowhere"], "connect to 'nowhere'"),
        (["forwarder", "--insecure", "--next-hop", "x=="], "next hop"),
        (["forwarder", "--insecure", "--profile", "/no/such/profile.yaml"], "profile /no/such/profile.yaml cannot be"),
        (["tune", "--output", "/no/such/folder/profile.yaml"], "/no/such/folder is not a folder to write to"),
        (["endpoint"], "say --insecure"),
        (["endpoint", "--insecure", "--cidr-prefix", "10.0.0.300/8"], "10.0.0.300/8"),
        (["endpoint", "--insecure", "--connect-to", "nowhere"], "connect to 'nowhere'"),
        (["authority"], "there are no workloads"),
        (["authority", "--workloads", "fwd=unix:///x"], "workload 'fwd=unix:///x'"),
        (["authority", "--workloads", "/fwd=here"], "workload '/fwd=here'"),
        (["authority", "--svid-lifetime", "100h"], "a root lives at least three times as long as an SVID"),
        (["up", "/no/such/mesh.yaml"], "/no/such/mesh.yaml cannot be read"),
    ],
)
def test_what_cannot_work_is_one_clear_line(arguments, told):
    result = invoke(*arguments)
    assert result.exit_code in (1, 2)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(f"vwire {arguments[0]}: error: ")
    assert told in last
    assert "Traceback" not in result.output


def test_an_error_says_message_detail_and_hint(capsys):
    with pytest.raises(SystemExit) as ended:
        program.fail("client", NextHopError("Request to x", status="UNAVAILABLE", detail="refused", hint="start it"))
    assert ended.value.code == 1
    assert capsys.readouterr().err == "vwire client: error: Request to x: refused (start it)\n"


def test_a_misuse_has_its_own_exit_status():
    with pytest.raises(SystemExit) as ended:
        program.fail("client", ConfigError("wrong"))
    assert ended.value.code == 2


def test_a_bug_is_told_with_its_traceback(capsys, caplog):
    with pytest.raises(SystemExit):
        program.fail("client", KeyError("x"))
    assert "KeyError" in capsys.readouterr().err
    assert caplog.records[-1].exc_info


def test_the_first_of_our_errors_in_a_group_is_told():
    wrong = InvalidRequest("wrong")
    group = ExceptionGroup("both", [ValueError("x"), ExceptionGroup("inner", [wrong])])
    assert program.first_cause(group) is wrong


def test_phases_are_numbered_and_timed(caplog):
    now = iter([0.0, 1.0, 1.25, 2.0])
    phases = program.Phases(lambda: next(now))
    with caplog.at_level(logging.INFO):
        with phases("open the data plane"):
            pass
        phases.ready("serving")
    assert [record.getMessage() for record in caplog.records] == [
        "phase 1: open the data plane (250 ms)",
        "serving, 2000 ms after the start",
    ]
