"""Tokens of a plaintext mesh, and tokens in metadata."""

import base64
import json
from typing import Any

import pytest

from forwarder.errors import InvalidRequest
from forwarder.security import Claims, Token, TokenMetadata, UnsignedTokens, claims, received

NOW = 1_700_000_000.25
SOURCE = UnsignedTokens(identity="spiffe://insecure/fwd", lifetime_s=600, now=lambda: NOW)


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def unpart(text: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def test_a_token_says_who_for_whom_and_until_when() -> None:
    token = SOURCE.token("spiffe://insecure/nse")
    assert token.expires == 1_700_000_600_250_000_000
    assert claims(token.text) == Claims(
        subject="spiffe://insecure/fwd", audience=("spiffe://insecure/nse",), expires=1_700_000_600
    )


def test_a_token_has_the_form_of_a_signed_one_without_signature() -> None:
    header, payload, signature = SOURCE.token("spiffe://insecure/nse").text.split(".")
    assert unpart(header) == {"alg": "none", "typ": "JWT"}
    assert unpart(payload) == {"sub": "spiffe://insecure/fwd", "exp": 1_700_000_600, "aud": ["spiffe://insecure/nse"]}
    assert signature == ""


def test_a_token_for_nobody_in_particular_names_no_audience() -> None:
    assert claims(SOURCE.token(None).text).audience == ()


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "a.b", "a.b.c", "..", "....", "ä.ö.ü", part({"alg": "none"}) + "." + part([1]) + "."),
        part({"alg": "none"}) + "." + part({"sub": 5}) + ".",
        part({"alg": "none"}) + "." + part({"aud": {"a": 1}}) + ".",
        part({"alg": "none"}) + "." + part({"aud": ["a", 5]}) + ".",
        part({"alg": "none"}) + "." + part({"exp": "soon"}) + ".",
        part("alg") + "." + part({}) + ".",
    ],
)
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        claims(text)


def test_claims_are_read_without_trusting_the_signature() -> None:
    text = part({"alg": "ES256", "typ": "JWT"}) + "." + part({"sub": "a", "aud": "b", "exp": 7}) + ".AAAA"
    assert claims(text) == Claims(subject="a", audience=("b",), expires=7)


def test_metadata_carries_the_token_and_its_expiry_to_the_nanosecond() -> None:
    metadata = TokenMetadata(SOURCE).metadata("spiffe://insecure/nse")
    assert [key for key, _ in metadata] == ["nsm-client-token", "nsm-client-token-expires"]
    assert metadata[1][1] == "2023-11-14T22:23:20.25Z"
    assert received(metadata) == SOURCE.token("spiffe://insecure/nse")


def test_other_metadata_is_passed_over() -> None:
    assert received([("a", "b"), *TokenMetadata(SOURCE).metadata(None), ("c", "d")]) is not None


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("nsm-client-token", "t")],
        [("nsm-client-token-expires", "2026-01-02T03:04:05Z")],
        [("nsm-client-token", "t"), ("nsm-client-token", "t"), ("nsm-client-token-expires", "2026-01-02T03:04:05Z")],
        [("nsm-client-token", "t"), *[("nsm-client-token-expires", "2026-01-02T03:04:05Z")] * 2],
        [("nsm-client-token", "t"), ("nsm-client-token-expires", "tomorrow")],
    ],
)
def test_a_token_that_is_missing_doubled_or_unreadable_is_none_and_logged(
    metadata: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    assert received(metadata) is None
    assert "nsm-client-token" in caplog.text


def test_a_token_is_taken_as_it_came() -> None:
    metadata = [("nsm-client-token", "t"), ("nsm-client-token-expires", "1970-01-01T02:00:00.5+02:00")]
    assert received(metadata) == Token(text="t", expires=500_000_000)
