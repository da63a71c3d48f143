"""Which policies a list of masks selects, users' Rego files among them, and how a denial reads."""

import logging
from pathlib import Path

import pytest

from forwarder.api.connection_pb2 import Path as PathMessage
from forwarder.api.connection_pb2 import PathSegment
from forwarder.errors import ConfigError, NotAuthorized, PolicyError
from forwarder.rpc import status
from forwarder.security import (
    NETWORK_SERVICE_CLIENT,
    NETWORK_SERVICE_SERVER,
    REGISTRY_CLIENT,
    REGISTRY_SERVER,
    MonitorInput,
    NetworkServiceInput,
    Policies,
    RegistryInput,
)
from tests.support.paths import chain, peer, segments, token

COMMON = ("common/tokens_chained", "common/tokens_expired", "common/tokens_valid")
GOOD = chain("nsc", "fwd")
CALL = NetworkServiceInput(segments=segments(GOOD), index=1, peer=peer("nsc"))
PEM = CALL.json()["auth_info"]["certificate"]


def rego(folder: Path, name: str, text: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize(
    ("masks", "names"),
    [
        ((), ()),
        (NETWORK_SERVICE_SERVER, (*COMMON, "server/prev_token_signed")),
        (NETWORK_SERVICE_CLIENT, (*COMMON, "client/next_token_signed")),
        (REGISTRY_SERVER, (*COMMON, "registry/client_allowed", "server/prev_token_signed")),
        (REGISTRY_CLIENT, (*COMMON, "registry/client_allowed", "client/next_token_signed")),
        (("etc/nsm/opa/common/tokens_valid.rego",), ("common/tokens_valid",)),
        (("policies/(common|monitor)/.*",), (*COMMON, "monitor/service_connection")),
        (("etc/nsm/opa/common/.*.rego", "etc/nsm/opa/common/tokens_valid.rego"), COMMON),
    ],
)
def test_nsm_s_masks_select_the_rules_that_are_built_in(
    masks: tuple[str, ...], names: tuple[str, ...], tmp_path: Path
) -> None:
    policies = Policies.load(masks, directory=tmp_path)
    assert policies.names == names
    assert bool(policies) is bool(names)


ALLOW = "package nsm\ndefault valid = true\n"
NAMED = 'package mine.own\nimport rego.v1\ndefault valid := false\nvalid if input.path_segments[0].name == "nsc"\n'


@pytest.mark.parametrize("mask", ["rules/.*.rego", "rules/*.rego", "rules/b.rego", "{folder}/rules/b.rego"])
def test_files_are_found_by_path_expression_or_pattern(mask: str, tmp_path: Path) -> None:
    rego(tmp_path / "rules", "b.rego", ALLOW)
    policies = Policies.load([mask.format(folder=tmp_path)], directory=tmp_path)
    assert [Path(name).name for name in policies.names] == ["b.rego"]


def test_a_file_on_disk_goes_before_the_rule_of_the_same_name(tmp_path: Path) -> None:
    rego(tmp_path / "policies/common", "tokens_expired.rego", ALLOW)
    policies = Policies.load(NETWORK_SERVICE_SERVER, directory=tmp_path)
    assert policies.names == (
        "common/tokens_chained",
        "policies/common/tokens_expired.rego",
        "common/tokens_valid",
        "server/prev_token_signed",
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no `package`"),
        ("default valid = true", "has no `package`"),
        ("package nsm\nallow = true", "has no `valid`"),
        ("package nsm\nvalid_too = true\nx { data.valid }", "has no `valid`"),
        ("package nsm\nvalid {", "cannot be compiled"),
        ("package nsm\nvalid { no_such_function(1) }", "cannot be compiled"),
    ],
)
def test_a_file_that_cannot_work_is_a_wrong_setting(
    text: str, told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = rego(tmp_path, "wrong.rego", text)
    with pytest.raises(ConfigError, match=told) as refused:
        Policies.load([path])
    assert path in str(refused.value)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("mask", ["no/such/file.rego", "etc/nsm/opa/common/no_such_rule.rego", "((", "/no/such/.*"])
def test_a_mask_that_selects_nothing_is_a_wrong_setting(mask: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file and no such rule"):
        Policies.load([mask], directory=tmp_path)


def test_a_file_that_is_no_text_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "x.rego").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        Policies.load([str(tmp_path / "x.rego")])


async def test_a_good_call_passes_everything(tmp_path: Path) -> None:
    await Policies.load(NETWORK_SERVICE_SERVER).check(CALL)
    await Policies.load([rego(tmp_path, "allow.rego", ALLOW)]).check(CALL)
    await Policies.load(()).check(NetworkServiceInput(segments=(), index=0, peer=None))


async def test_a_denial_names_the_rule_and_what_failed_in_log_and_status(caplog: pytest.LogCaptureFixture) -> None:
    expired = NetworkServiceInput(segments=segments([token("nsc", "fwd", -5), GOOD[1]]), index=1, peer=peer("nsc"))
    with caplog.at_level(logging.INFO), pytest.raises(NotAuthorized) as denied:
        await Policies.load(NETWORK_SERVICE_SERVER).check(expired)
    code, detail = status.of(denied.value)
    assert code.name == "PERMISSION_DENIED"
    assert detail.startswith("no sufficient privileges: policy common/tokens_expired: the token of segment 0 expired")
    assert "policy common/tokens_expired denies spiffe://example.org/nsc: the token of segment 0" in caplog.text


async def test_what_cannot_be_evaluated_is_internal_and_logged(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    silent = Policies.load([rego(tmp_path, "silent.rego", "package nsm\nvalid { input.index == 99 }")])
    text = Policies.load([rego(tmp_path, "text.rego", 'package nsm\nvalid = "yes"')])
    torn = Policies.load([rego(tmp_path, "torn.rego", "package nsm\nvalid = x { x := input.path_segments[_].token }")])
    for policies, told in ((silent, "`valid` is nothing"), (text, "`valid` is 'yes'"), (torn, "`valid` is nothing")):
        with pytest.raises(PolicyError) as failed:
            await policies.check(CALL)
        code, detail = status.of(failed.value)
        assert code.name == "INTERNAL"
        assert policies.names[0] in detail
        assert told in detail
        assert "eyJ" not in detail
        assert told in caplog.text


async def test_a_user_s_file_decides_by_what_the_contract_gives_it(tmp_path: Path) -> None:
    policies = Policies.load([rego(tmp_path, "named.rego", NAMED)])
    await policies.check(NetworkServiceInput(segments=segments(GOOD, name="nsc"), index=1, peer=None))
    with pytest.raises(NotAuthorized, match=r"named\.rego: `valid` is false"):
        await policies.check(NetworkServiceInput(segments=segments(GOOD, name="other"), index=1, peer=None))


async def test_a_rule_for_registrations_denies_what_is_none() -> None:
    with pytest.raises(NotAuthorized, match="not made for a NetworkServiceInput"):
        await Policies.load(["etc/nsm/opa/registry/.*.rego"]).check(CALL)


def test_a_call_is_its_own_segment_and_those_to_the_left_an_answer_the_whole_path() -> None:
    path = PathMessage(index=9, path_segments=[PathSegment(id=each) for each in "abc"])
    assert [each.id for each in NetworkServiceInput.of_call(path, 1, None).segments] == ["a", "b"]
    assert [each.id for each in NetworkServiceInput.of_answer(path, 1, None).segments] == ["a", "b", "c"]
    assert NetworkServiceInput.of_call(path, 1, None).index == 1


def test_the_json_of_a_call_is_what_go_writes() -> None:
    first = PathSegment(name="nsc", id="1", token="t", metrics={"a": "b"})
    first.expires.FromNanoseconds(1_500_000_000)
    second = PathSegment(token="u")
    second.expires.FromNanoseconds(2_000_000_000)
    call = NetworkServiceInput(segments=(first, second, PathSegment()), index=1, peer=peer("nsc"))
    assert call.json() == {
        "index": 1,
        "path_segments": [
            {
                "name": "nsc",
                "id": "1",
                "token": "t",
                "expires": {"seconds": 1, "nanos": 500_000_000},
                "metrics": {"a": "b"},
            },
            {"token": "u", "expires": {"seconds": 2}},
            {},
        ],
        "auth_info": {"certificate": PEM},
    }
    assert PEM.startswith("-----BEGIN CERTIFICATE-----\n")
    nothing = NetworkServiceInput(segments=(), index=0, peer=None)
    assert nothing.json() == {"auth_info": {"certificate": ""}}


def test_the_json_of_registrations_and_monitors_is_what_go_writes() -> None:
    register = RegistryInput(name="n", owner="o", known={"n": ("o", "p")}, tokens=("t",), index=0, peer=None)
    assert register.json() == {
        "resource_id": "o",
        "resource_name": "n",
        "resource_path_ids_map": {"n": ["o", "p"]},
        "path_segments": [{"token": "t"}],
        "index": 0,
        "auth_info": {"certificate": ""},
    }
    monitor = MonitorInput(connections={"c": ("1",)}, selected=("2",), caller="c", peer=None)
    assert monitor.json() == {
        "spiffe_id_connection_map": {"c": ["1"]},
        "selector_connection_ids": ["2"],
        "service_spiffe_id": "c",
        "auth_info": {"certificate": ""},
    }
