"""A refusal is read as it was told, and nothing else is taken for one."""

import pytest

from forwarder.rpc import refusal


@pytest.mark.parametrize("server_side", [True, False])
def test_a_reason_is_told_and_read(server_side: bool) -> None:
    told = refusal.tell("the certificate has two names", server_side=server_side)
    assert refusal.told(told) == "the certificate has two names"
    assert told.startswith(refusal.PREFACE) is not server_side


def test_a_long_reason_is_cut() -> None:
    assert refusal.told(refusal.tell("x" * 5000, server_side=True)) == "x" * refusal.LONGEST


def test_the_alert_of_a_server_with_tls_is_understood() -> None:
    assert "TLS" in refusal.told(bytes.fromhex("15030100020246"))


@pytest.mark.parametrize(
    "first",
    [
        b"",
        refusal.PREFACE,
        refusal.tell("cut off", server_side=True)[:-1],
        bytes.fromhex("000000040000000000"),
        bytes.fromhex("0000080700000000000000000000000000"),
        b"\xff" * 100,
    ],
    ids=["nothing", "preface", "cut off", "settings", "goaway without a reason", "noise"],
)
def test_what_is_no_refusal_is_none(first: bytes) -> None:
    assert refusal.told(first) == ""
