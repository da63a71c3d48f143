"""Whatever a Workload API or a peer says, certificates, keys and tokens are read or refused."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from forwarder.api.spiffe_id import SpiffeId
from forwarder.api.workload_pb2 import X509SVID, X509SVIDResponse
from forwarder.api.x509 import Peer, identity_of, load
from forwarder.errors import ConfigError, InvalidRequest
from forwarder.security import RegistryInput, certificates, claims, owner_of
from forwarder.security.identity import read
from forwarder.security.rules import RULES
from tests.support.paths import AUTHORITY, NOW, peer, svid, token

BUDGET = settings(max_examples=200, deadline=None)
SVID = svid("nsc")
GOOD = X509SVID(
    spiffe_id=SVID.identity,
    x509_svid=b"".join(SVID.certificates),
    x509_svid_key=SVID.private_key,
    bundle=b"".join(AUTHORITY.bundle),
)
BYTES = st.binary(max_size=80)


def damaged(data: bytes) -> st.SearchStrategy[bytes]:
    """Bytes with one of them changed, with some missing, or with more."""
    places = st.integers(0, len(data) - 1)
    changed = st.tuples(places, st.integers(0, 255)).map(
        lambda drawn: data[: drawn[0]] + bytes([drawn[1]]) + data[drawn[0] + 1 :]
    )
    return changed | places.map(lambda place: data[:place]) | BYTES.map(lambda more: data + more) | BYTES


@BUDGET
@given(BYTES | damaged(SVID.certificates[0] * 2))
@example(b"\x30\x80")
@example(b"\x30\x84\xff\xff\xff\xff")
def test_certificates_are_parted_without_loss_or_refused(data: bytes) -> None:
    try:
        parts = certificates.split(data)
    except InvalidRequest:
        return
    assert b"".join(parts) == data


@BUDGET
@given(damaged(SVID.certificates[0]))
def test_a_certificate_is_read_or_refused(data: bytes) -> None:
    try:
        identity_of(load(data))
    except InvalidRequest:
        return


@pytest.mark.parametrize("field", ["x509_svid", "x509_svid_key", "bundle"])
def test_an_answer_is_taken_only_if_it_is_whole(field: str) -> None:
    original = getattr(GOOD, field)

    @BUDGET
    @given(damaged(original))
    def take(data: bytes) -> None:
        said = X509SVID()
        said.CopyFrom(GOOD)
        setattr(said, field, data)
        try:
            told = read(X509SVIDResponse(svids=[said]))
        except (InvalidRequest, ConfigError):
            return
        assert told.svid.identity == SVID.identity
        assert told.bundles.keys() == {"example.org"}

    take()


@BUDGET
@given(st.text(max_size=60) | st.text("spife:/.-_aZ0", max_size=30).map("spiffe://".__add__))
def test_a_spiffe_id_is_refused_or_written_back_as_it_was(text: str) -> None:
    try:
        assert str(SpiffeId.parse(text)) == text
    except InvalidRequest:
        return


TOKEN = token("nsc", "fwd").encode()


@BUDGET
@given(damaged(TOKEN).map(lambda data: data.decode(errors="replace")) | st.text(max_size=40), BYTES)
@example("\ud800.\ud800.\ud800", b"")
@example("e30." + "W10" * 20_000 + ".", b"")
@example("e30." + "W1tb" * 20_000 + ".", b"")
def test_a_token_is_read_or_refused_by_everything_that_looks_at_it(text: str, certificate: bytes) -> None:
    try:
        assert claims(text).subject == owner_of(text)
    except InvalidRequest as error:
        said = str(error)
    else:
        said = ""
    assert len(text) < 10 or text not in said
    for caller in (None, peer("nsc"), Peer(identity="spiffe://example.org/x", certificate=certificate)):
        for name, (rule, _) in RULES.items():
            if name.partition("/")[0] in ("common", "server", "client"):
                rule(RegistryInput(name="", owner="", known={}, tokens=[text] * 2, index=1, peer=caller), NOW)
