"""NSM's rules: what each allows, and what it denies with which words."""

import math
import sys
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from forwarder.api.x509 import Peer
from forwarder.errors import PolicyError
from forwarder.security import MonitorInput, NetworkServiceInput, RegistryInput, owner_of, rules
from tests.support.certificates import self_signed
from tests.support.paths import NOW, chain, peer, segments, token, unsigned

NSC, FWD, NSE = (f"spiffe://example.org/{name}" for name in ("nsc", "fwd", "nse"))
GOOD = chain("nsc", "fwd", "nse")
LATER = int(NOW) + 600


def look(tokens: list[str], index: int = 1, other: Peer | None = None) -> NetworkServiceInput:
    return NetworkServiceInput(segments=segments(tokens), index=index, peer=other)


# --- Every token ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tokens",
    [GOOD, GOOD[:1], [unsigned()], [unsigned({"alg": "none"}, sub=5)], [token("nsc", None, -5)]],
)
def test_tokens_valid_allows_every_jwt_whoever_signed_it(tokens: list[str]) -> None:
    assert rules.tokens_valid(look(tokens), NOW) is None


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        ([""], "the token of segment 0 is missing"),
        ([*GOOD, ""], "the token of segment 3 is missing"),
        ([GOOD[0], "x", GOOD[2]], "the token of segment 1 is no JWT"),
        ([GOOD[0][:-20].rpartition(".")[0]], "the token of segment 0 is no JWT"),
        (["a.b.c"], "is no JWT"),
        (["...."], "is no JWT"),
        ([GOOD[0] + ".x"], "is no JWT"),
        (["é" + GOOD[0]], "is no JWT"),
        ([unsigned(["not", "an", "object"])], "is no JWT"),
        ([unsigned(exp=math.nan)], "is no JWT"),
        ([unsigned(exp=math.inf)], "is no JWT"),
        ([GOOD[0].split(".")[0] + ".WzFd." + "A" * 86], "is no JWT"),  # a list
    ],
)
def test_tokens_valid_denies_what_is_no_jwt(tokens: list[str], told: str) -> None:
    assert told in (rules.tokens_valid(look(tokens), NOW) or "")


@pytest.mark.parametrize("tokens", [GOOD, [unsigned(exp=NOW + 0.5)], [unsigned(exp=LATER)] * 3])
def test_tokens_expired_allows_what_ends_later(tokens: list[str]) -> None:
    assert rules.tokens_expired(look(tokens), NOW) is None


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        ([unsigned(exp=NOW)], "the token of segment 0 expired 0.0 s ago"),
        ([GOOD[0], token("fwd", "nse", -90)], "the token of segment 1 expired 9"),
        ([*GOOD[:2], unsigned(exp=0)], "the token of segment 2 expired"),
        ([unsigned(exp=-(10**400))], "the token of segment 0 expired"),
        ([unsigned(exp=math.nan)], "does not say when it expires"),
        ([unsigned()], "does not say when it expires"),
        ([unsigned(exp="soon")], "does not say when it expires"),
        ([unsigned(exp=True)], "does not say when it expires"),
        ([unsigned(exp=None)], "does not say when it expires"),
        (["x"], "does not say when it expires"),
    ],
)
def test_tokens_expired_denies_what_has_ended_or_never_does(tokens: list[str], told: str) -> None:
    assert told in (rules.tokens_expired(look(tokens), NOW) or "")


@pytest.mark.parametrize(
    "tokens",
    [
        ["no token at all"],
        GOOD,
        GOOD[:2],
        [unsigned(sub=NSC, aud=[FWD]), unsigned(sub=FWD)],
        [unsigned(aud=[FWD, FWD]), unsigned(sub=FWD)],
    ],
)
def test_tokens_chained_allows_each_token_for_the_maker_of_the_next(tokens: list[str]) -> None:
    assert rules.tokens_chained(look(tokens), NOW) is None


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        ([GOOD[0], GOOD[2]], f"the token of segment 0 is for {FWD}, and that of segment 1 by {NSE}"),
        ([GOOD[0], GOOD[1], GOOD[1]], f"the token of segment 1 is for {NSE}, and that of segment 2 by {FWD}"),
        (GOOD[::-1], f"the token of segment 1 is for {NSE}, and that of segment 2 by {NSC}"),
        ([token("nsc", None), GOOD[1]], "the token of segment 0 does not say for whom it is"),
        ([unsigned(aud=FWD), GOOD[1]], "the token of segment 0 does not say for whom it is"),
        ([unsigned(aud={"a": FWD}), GOOD[1]], "the token of segment 0 does not say for whom it is"),
        ([unsigned(aud=[]), GOOD[1]], "the token of segment 0 is for nobody"),
        ([unsigned(aud=[5]), unsigned(sub=5)], "the token of segment 1 does not say who made it"),
        ([GOOD[0], unsigned()], "the token of segment 1 does not say who made it"),
        ([GOOD[0], "x"], "the token of segment 1 does not say who made it"),
        (["x", GOOD[1]], "the token of segment 0 does not say for whom it is"),
    ],
)
def test_tokens_chained_denies_a_token_that_was_made_for_somebody_else(tokens: list[str], told: str) -> None:
    assert told in (rules.tokens_chained(look(tokens), NOW) or "")


@pytest.mark.parametrize("rule", [rules.tokens_valid, rules.tokens_expired, rules.tokens_chained])
def test_a_request_without_segments_is_denied_and_a_registration_without_segments_is_not(rule: rules.Rule) -> None:
    registration = RegistryInput(name="icmp", owner="", known={}, tokens=[], index=0, peer=None)
    assert rule(look([]), NOW) == "there is no path"
    assert rule(replace(registration, has_path=False), NOW) == "there is no path"
    assert rule(registration, NOW) is None


def test_a_token_for_several_of_whom_one_made_the_next_cannot_be_judged() -> None:
    with pytest.raises(PolicyError, match="2 audiences"):
        rules.tokens_chained(look([unsigned(aud=[FWD, NSE]), GOOD[1]]), NOW)
    with pytest.raises(PolicyError, match="of segment 2 is for 2 audiences"):
        rules.tokens_chained(look([GOOD[0], GOOD[0], unsigned(aud=[FWD, NSE]), GOOD[1]]), NOW)


# --- Signatures -------------------------------------------------------------------------------

OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
IMPOSTOR = Peer(identity=NSC, certificate=self_signed(OTHER_KEY, [NSC]))
P384 = Peer(identity=NSC, certificate=self_signed(ec.generate_private_key(ec.SECP384R1()), [NSC]))
RSA = Peer(identity=NSC, certificate=self_signed(rsa.generate_private_key(65537, 2048), [NSC]))
NONE = Peer(identity=NSC, certificate=b"")


def test_prev_token_signed_allows_the_caller_s_own_token() -> None:
    assert rules.prev_token_signed(look(GOOD[:2], 1, peer("nsc")), NOW) is None
    assert rules.prev_token_signed(look(GOOD, 2, peer("fwd")), NOW) is None


@pytest.mark.parametrize(
    ("tokens", "index", "caller", "told"),
    [
        (GOOD, 0, peer("nsc"), "the caller has no segment in the path"),
        ([], 1, peer("nsc"), "the path has no segment 0"),
        (GOOD, 1, None, "the peer shows no certificate"),
        (GOOD, 1, peer("fwd"), f"the token of segment 0 was not signed by the certificate of {FWD}"),
        (GOOD, 1, IMPOSTOR, f"the token of segment 0 was not signed by the certificate of {NSC}"),
        (GOOD, 2, peer("nsc"), "the token of segment 1 was not signed by"),
        (GOOD, 1, NONE, "has no usable key"),
        (GOOD, 1, P384, "has no key of P-256"),
        (GOOD, 1, RSA, "has no key of P-256"),
        ([unsigned(sub=NSC, exp=LATER)], 1, peer("nsc"), "was not signed by"),
        ([unsigned({"alg": "none"}, sub=NSC)], 1, peer("nsc"), "was not signed by"),
        ([GOOD[0][:-4] + "AAAA"], 1, peer("nsc"), "was not signed by"),
        ([""], 1, peer("nsc"), "was not signed by"),
        ([GOOD[0].rpartition(".")[0] + "."], 1, peer("nsc"), "was not signed by"),
    ],
)
def test_prev_token_signed_denies_every_other(tokens: list[str], index: int, caller: Peer | None, told: str) -> None:
    assert told in (rules.prev_token_signed(look(tokens, index, caller), NOW) or "")


def test_next_token_signed_allows_the_server_s_own_token() -> None:
    assert rules.next_token_signed(look(GOOD, 0, peer("fwd")), NOW) is None
    assert rules.next_token_signed(look(GOOD, 1, peer("nse")), NOW) is None


@pytest.mark.parametrize(
    ("tokens", "index", "server", "told"),
    [
        (GOOD, 2, peer("nse"), "the path has no segment 3"),
        (GOOD[:1], 0, peer("fwd"), "the path has no segment 1"),
        (GOOD, 0, None, "the peer shows no certificate"),
        (GOOD, 0, peer("nse"), f"the token of segment 1 was not signed by the certificate of {NSE}"),
        (GOOD, 1, IMPOSTOR, "the token of segment 2 was not signed by"),
    ],
)
def test_next_token_signed_denies_every_other(tokens: list[str], index: int, server: Peer | None, told: str) -> None:
    assert told in (rules.next_token_signed(look(tokens, index, server), NOW) or "")


# --- Registrations and monitors ---------------------------------------------------------------


def registration(owner: str, known: dict[str, list[str]]) -> RegistryInput:
    return RegistryInput(name="icmp", owner=owner, known=known, tokens=[], index=0, peer=None)


@pytest.mark.parametrize("known", [{}, {"other": [FWD]}, {"icmp": [NSE]}, {"icmp": [NSE, FWD], "other": [FWD]}])
def test_client_allowed_allows_new_names_and_the_owner(known: dict[str, list[str]]) -> None:
    assert rules.client_allowed(registration(NSE, known), NOW) is None


@pytest.mark.parametrize(
    ("owner", "ids", "told"),
    [
        (NSC, [NSE], f"'icmp' belongs to {NSE}, not to {NSC}"),
        (NSE, [FWD, NSE], f"belongs to {FWD}"),
        (NSE, [], "belongs to nobody"),
        ("", [NSE], "not to an unknown caller"),
    ],
)
def test_client_allowed_denies_a_name_that_is_another_s(owner: str, ids: list[str], told: str) -> None:
    assert told in (rules.client_allowed(registration(owner, {"icmp": ids}), NOW) or "")


def monitor(selected: list[str], connections: dict[str, list[str]]) -> MonitorInput:
    return MonitorInput(connections=connections, selected=selected, caller=NSC, peer=None)


def test_service_connection_allows_a_connection_of_the_caller() -> None:
    assert rules.service_connection(monitor(["x", "b"], {NSC: ["a", "b"]}), NOW) is None


@pytest.mark.parametrize(
    ("selected", "connections"),
    [([], {NSC: ["a"]}), (["a"], {}), (["a"], {NSC: []}), (["a"], {NSC: ["b"], FWD: ["a"]})],
)
def test_service_connection_denies_other_connections(selected: list[str], connections: dict[str, list[str]]) -> None:
    assert rules.service_connection(monitor(selected, connections), NOW)


@pytest.mark.parametrize(
    ("text", "owner"), [(GOOD[0], NSC), (unsigned(sub=NSE), NSE), (unsigned(), ""), (unsigned(sub=5), ""), ("x", "")]
)
def test_an_owner_is_who_made_the_first_token(text: str, owner: str) -> None:
    assert owner_of(text) == owner


def test_a_token_of_megabytes_is_judged_and_not_kept() -> None:
    text = unsigned(sub="x" * 2_000_000)
    referred = sys.getrefcount(text)
    assert rules.owner_of(text).startswith("xxx")
    assert sys.getrefcount(text) == referred


def test_no_denial_has_a_token_in_it() -> None:
    for rule in (rules.tokens_valid, rules.tokens_expired, rules.tokens_chained, rules.prev_token_signed):
        for tokens in ([GOOD[0] + ".x"] * 2, [token("nsc", "nsc", -9)] * 2):
            assert "eyJ" not in (rule(look(tokens, 1, peer("nse")), NOW) or "")
