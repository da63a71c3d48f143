"""Tokens do not appear where people read."""

import logging

import jwt
import pytest

from forwarder.api.redact import redact
from forwarder.errors import InvalidRequest, NextHopError
from forwarder.observability import log as logs
from forwarder.rpc import status

TOKEN = jwt.encode({"sub": "spiffe://example.org/nsc"}, "x" * 32, algorithm="HS256")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ""),
        ("no token in eyJ here", "no token in eyJ here"),
        (f"token {TOKEN!r}: expired", "token '(token)': expired"),
        (f'{{"token":"{TOKEN}"}},{{"token":"{TOKEN}"}}', '{"token":"(token)"},{"token":"(token)"}'),
        (f"half a token {TOKEN[:-60]}", "half a token (token)"),
        ("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.", "(token)"),
    ],
)
def test_a_token_in_a_text_is_left_out(text: str, told: str) -> None:
    assert redact(text) == told


@pytest.mark.parametrize(
    "error", [InvalidRequest(f"path {TOKEN}"), NextHopError("Request", status="UNKNOWN", detail=f"said {TOKEN}")]
)
def test_a_status_has_no_token(error: Exception) -> None:
    assert "eyJ" not in status.of(error)[1]


def test_a_line_of_the_log_has_no_token_not_even_in_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.set_up("INFO")
        try:
            raise ValueError(TOKEN)
        except ValueError:
            logging.getLogger("forwarder.x").exception("with %s", TOKEN)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    told = capsys.readouterr().err
    assert "with (token)" in told
    assert "ValueError: (token)" in told
    assert "eyJ" not in told
