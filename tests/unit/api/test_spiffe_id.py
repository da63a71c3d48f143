"""SPIFFE IDs: what is one, and what is not."""

import pytest

from forwarder.api.spiffe_id import SpiffeId
from forwarder.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "trust_domain", "path"),
    [
        ("spiffe://example.org", "example.org", ""),
        ("spiffe://example.org/ns/default/sa/nsc", "example.org", "/ns/default/sa/nsc"),
        ("spiffe://a_b-1.c/A.b-_/9", "a_b-1.c", "/A.b-_/9"),
        ("spiffe://" + "a" * 255 + "/...", "a" * 255, "/..."),
    ],
)
def test_a_spiffe_id_is_taken_apart_and_written_back(text: str, trust_domain: str, path: str) -> None:
    parsed = SpiffeId.parse(text)
    assert (parsed.trust_domain, parsed.path) == (trust_domain, path)
    assert str(parsed) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "spiffe", "spiffe:", "spiffe:/", "spiffe://", "spiffe:///x", "https://example.org/x", "SPIFFE://a/b"),
        *("spiffe://Example.org/x", "spiffe://ex ample/x", "spiffe://u@a/x", "spiffe://a:1/x", "spiffe://ä/x"),
        *("spiffe://a/", "spiffe://a//b", "spiffe://a/b/", "spiffe://a/./b", "spiffe://a/.."),
        *("spiffe://a/b?c", "spiffe://a/b#c", "spiffe://a/%20", "spiffe://a/ü", "spiffe://a/b\n"),
        *("spiffe://" + "a" * 256, "spiffe://a/" + "b" * 2048),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        SpiffeId.parse(text)
