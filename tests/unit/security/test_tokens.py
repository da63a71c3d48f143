"""Tokens, signed and of a plaintext mesh, and tokens in metadata."""

import base64
import json
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from forwarder.api.spiffe_id import SpiffeId
from forwarder.api.x509 import Peer, Svid
from forwarder.errors import InvalidRequest
from forwarder.rpc import Call
from forwarder.security import (
    Authority,
    Claims,
    SvidTokens,
    Token,
    TokenMetadata,
    UnsignedTokens,
    claims,
    received,
)
from tests.support.certificates import Fixed, ends
from tests.support.clock import TurnedClock

NOW = 1_700_000_000.25
NSE = Peer(identity="spiffe://insecure/nse", certificate=b"")
SOURCE = UnsignedTokens(identity="spiffe://insecure/fwd", lifetime_s=600, now=lambda: NOW)


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def unpart(text: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def test_a_token_says_who_for_whom_and_until_when() -> None:
    token = SOURCE.token(NSE)
    assert token.expires == 1_700_000_600_250_000_000
    assert claims(token.text) == Claims(
        subject="spiffe://insecure/fwd", audience=("spiffe://insecure/nse",), expires=1_700_000_600
    )


def test_a_token_has_the_form_of_a_signed_one_without_signature() -> None:
    header, payload, signature = SOURCE.token(NSE).text.split(".")
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
    metadata = TokenMetadata(SOURCE).metadata(NSE)
    assert [key for key, _ in metadata] == ["nsm-client-token", "nsm-client-token-expires"]
    assert metadata[1][1] == "2023-11-14T22:23:20.25Z"
    assert received(metadata) == SOURCE.token(NSE)


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


# --- Signed with an SVID --------------------------------------------------------------------

CLOCK = TurnedClock(NOW)
AUTHORITY = Authority("example.org", svid_lifetime_s=3600, clock=CLOCK)


def issue(path: str, lifetime_s: float = 3600) -> Svid:
    return AUTHORITY.issue(SpiffeId.parse(f"spiffe://example.org{path}"), lifetime_s=lifetime_s)


def as_peer(svid: Svid, shown: Svid | None = None) -> Peer:
    return Peer(identity=svid.identity, certificate=svid.certificates[0], shown=shown)


def signed(svid: Svid, lifetime_s: float = 600) -> SvidTokens:
    return SvidTokens(Fixed(svid, AUTHORITY), lifetime_s=lifetime_s, now=CLOCK.now)


def public_key(svid: Svid) -> Any:
    return x509.load_der_x509_certificate(svid.certificates[0]).public_key()


FWD_SVID, SERVER_SVID = issue("/fwd"), issue("/nse")


def test_a_signed_token_has_what_nsm_s_have_and_nothing_else() -> None:
    token = signed(FWD_SVID).token(as_peer(SERVER_SVID))
    header, payload, _ = token.text.split(".")
    assert unpart(header) == {"alg": "ES256", "typ": "JWT"}
    assert unpart(payload) == {
        "sub": "spiffe://example.org/fwd",
        "exp": 1_700_000_600,
        "aud": ["spiffe://example.org/nse"],
    }
    assert "=" not in token.text
    assert token.expires == 1_700_000_600_250_000_000


def test_the_signature_is_r_and_s_in_64_bytes_and_verifies_with_the_certificate_shown() -> None:
    token = signed(FWD_SVID).token(as_peer(SERVER_SVID))
    text, _, signature = token.text.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    assert len(raw) == 64
    r, s = int.from_bytes(raw[:32]), int.from_bytes(raw[32:])
    public_key(FWD_SVID).verify(encode_dss_signature(r, s), text.encode(), ec.ECDSA(hashes.SHA256()))


def test_a_token_for_a_peer_without_certificate_has_no_audience() -> None:
    _, payload, _ = signed(FWD_SVID).token(None).text.split(".")
    assert unpart(payload).keys() == {"sub", "exp"}


@pytest.mark.parametrize(
    ("own_s", "peer_s", "lifetime_s", "exp", "told"),
    [
        (3600, 3600, 600, 1_700_000_600, 1_700_000_600.25),  # the lifetime
        (300, 3600, 600, 1_700_000_300, 1_700_000_300),  # our certificate
        (3600, 200, 600, 1_700_000_600, 1_700_000_200),  # the peer's, beside the token only
        (300, 200, 600, 1_700_000_300, 1_700_000_200),
        (200, 300, 600, 1_700_000_200, 1_700_000_200),
        (3600, 3600, 0.5, 1_700_000_000, 1_700_000_000.75),
    ],
)
def test_a_token_ends_with_its_lifetime_or_a_certificate(
    own_s: float, peer_s: float, lifetime_s: float, exp: int, told: float
) -> None:
    own, peer = issue("/fwd", own_s), issue("/nse", peer_s)
    token = signed(own, lifetime_s).token(as_peer(peer))
    assert claims(token.text).expires == exp
    assert token.expires == round(told * 4) * 250_000_000
    assert ends(own.certificates[0]) == int(NOW + own_s)


def test_a_token_is_signed_with_what_the_peer_was_shown_also_after_a_renewal() -> None:
    renewed = issue("/fwd")
    tokens = signed(renewed)
    peer = as_peer(SERVER_SVID, shown=FWD_SVID)
    jwt.decode(
        tokens.token(peer).text, public_key(FWD_SVID), ["ES256"], options={"verify_exp": False}, audience=peer.identity
    )
    jwt.decode(tokens.token(None).text, public_key(renewed), ["ES256"], options={"verify_exp": False})


def test_each_call_has_a_token_of_its_own() -> None:
    tokens = signed(FWD_SVID)
    assert tokens.token(None).text != tokens.token(None).text


def test_tokens_and_keys_are_not_in_what_objects_print() -> None:
    token = signed(FWD_SVID).token(None)
    call = Call(metadata=tuple(TokenMetadata(signed(FWD_SVID)).metadata(None)))
    printed = f"{token!r} {call!r} {FWD_SVID!r} {as_peer(SERVER_SVID, shown=FWD_SVID)!r}"
    assert "eyJ" not in printed
    assert repr(FWD_SVID.private_key)[2:20] not in printed
