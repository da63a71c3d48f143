"""TLS between two ends in memory: who is believed, who is not, and in which words."""

import os
import ssl

import pytest

from forwarder.api.x509 import Peer
from forwarder.errors import ConfigError, RemoteProtocolError
from forwarder.rpc.stream import Tls
from forwarder.rpc.tls import TlsIdentity, peer_of
from tests.support.identities import Held, TrustDomain

HOME = TrustDomain()
FAR = TrustDomain("far.org")


def shaken(client: Held, server: Held) -> tuple[Tls, Tls]:
    """Makes the handshake of two ends; raises what either raises."""
    ends = TlsIdentity(client).stream(server_side=False), TlsIdentity(server).stream(server_side=True)
    complete = [False, False]
    for _ in range(6):
        for number, (mine, other) in enumerate(((ends[0], ends[1]), (ends[1], ends[0]))):
            if not complete[number]:
                complete[number] = mine.handshake(other.output())
    assert complete == [True, True]
    return ends


def peers(client: Held, server: Held) -> tuple[Peer, Peer]:
    of_client, of_server = shaken(client, server)
    return TlsIdentity(client).peer(of_client), TlsIdentity(server).peer(of_server)


def test_two_ends_know_each_other_and_what_they_showed() -> None:
    client, server = HOME.identity("client"), HOME.identity("server")
    of_client, of_server = peers(client, server)
    assert of_client == Peer(
        identity="spiffe://example.org/server", certificate=server.svid.certificates[0], shown=client.svid
    )
    assert of_server == Peer(
        identity="spiffe://example.org/client", certificate=client.svid.certificates[0], shown=server.svid
    )


def test_plaintext_goes_through_whole_and_byte_by_byte() -> None:
    client, server = shaken(HOME.identity("client"), HOME.identity("server"))
    message = os.urandom(200_000)
    assert server.receive(client.send(message)) == message
    assert b"".join(server.receive(bytes([each])) for each in client.send(b"byte by byte")) == b"byte by byte"
    assert server.receive(client.end()) == b""
    assert server.ended
    assert client.receive(server.send(b"half closed")) == b"half closed"


def test_federated_trust_domains_believe_each_other() -> None:
    bundles = {**HOME.bundles, **FAR.bundles}
    of_client, of_server = peers(Held(HOME.svid("client"), bundles), Held(FAR.svid("server"), bundles))
    assert of_client.identity == "spiffe://far.org/server"
    assert of_server.identity == "spiffe://example.org/client"


REFUSED = {
    "another authority": (TrustDomain().svid("x"), "certificate is not accepted"),
    "expired": (HOME.svid("x", expired=True), "expired"),
    "two names": (HOME.svid("x", uris=["spiffe://example.org/a", "spiffe://example.org/b"]), "2 URIs"),
    "no name": (HOME.svid("x", uris=[]), "0 URIs"),
    "no SPIFFE ID": (HOME.svid("x", uris=["https://example.org/a"]), "names no trust domain"),
    "the trust domain itself": (HOME.svid("x", uris=["spiffe://example.org"]), "names no workload"),
    "an authority's": (HOME.svid("x", ca=True), "may sign"),
    "may sign": (HOME.svid("x", may_sign=True), "may sign"),
    "in another's name": (HOME.svid("x", uris=["spiffe://far.org/x"]), "authority of another trust domain"),
    "of nobody we know": (HOME.svid("x", uris=["spiffe://else.org/x"]), r"else\.org is not known.*example\.org"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("server_side", [True, False], ids=["as server", "as client"])
def test_a_certificate_that_proves_nothing_is_refused_by_name(kind: str, server_side: bool) -> None:
    svid, reason = REFUSED[kind]
    bundles = {**HOME.bundles, **FAR.bundles}
    bad, good = Held(svid, bundles), Held(HOME.svid("good"), bundles)
    with pytest.raises(RemoteProtocolError, match=reason):
        ends = shaken(good, bad) if server_side else shaken(bad, good)
        TlsIdentity(good).peer(ends[0] if server_side else ends[1])


def test_a_peer_without_the_protocol_is_refused() -> None:
    server = TlsIdentity(HOME.identity("server"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    of_server = server.stream(server_side=True)
    stranger = Tls(context, HOME.svid("x"), server_side=False)
    stranger.handshake(b"")
    of_server.handshake(stranger.output())
    stranger.handshake(of_server.output())
    with pytest.raises(RemoteProtocolError, match="did not return a certificate"):
        of_server.handshake(stranger.output())
    anonymous = TlsIdentity(HOME.identity("x")).stream(server_side=False)
    with pytest.raises(RemoteProtocolError, match="'h2'"):
        server.peer(anonymous)


@pytest.mark.parametrize("server_side", [True, False], ids=["as server", "as client"])
def test_who_the_peer_is_cannot_change_under_way(server_side: bool) -> None:
    stream = TlsIdentity(HOME.identity("x")).stream(server_side=server_side)
    assert ssl.OP_NO_RENEGOTIATION in stream.tls.context.options


def test_what_is_no_tls_is_said_to_be_none() -> None:
    with pytest.raises(RemoteProtocolError, match="does not speak TLS"):
        TlsIdentity(HOME.identity("x")).stream(server_side=True).handshake(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")


def test_garbage_after_the_handshake_is_an_error_of_the_peer() -> None:
    _, server = shaken(HOME.identity("client"), HOME.identity("server"))
    with pytest.raises(RemoteProtocolError):
        server.receive(b"\x17\x03\x03\x00\x20" + bytes(32))


def test_a_new_certificate_is_shown_in_the_next_handshake() -> None:
    client, server = HOME.identity("client"), HOME.identity("server")
    tls = TlsIdentity(server)
    before = tls.stream(server_side=True)
    assert tls.stream(server_side=True).shown is before.shown
    server.svid = HOME.svid("renamed")
    server.bundles = {**HOME.bundles, **FAR.bundles}
    client = Held(FAR.svid("client"), HOME.bundles)
    of_client, of_server = peers(client, server)
    assert of_client.identity == "spiffe://example.org/renamed"
    assert of_server.identity == "spiffe://far.org/client"
    assert tls.stream(server_side=True).shown is server.svid


def test_a_key_that_is_not_the_certificate_s_is_our_own_fault() -> None:
    svid = HOME.svid("x")
    mixed = Held(HOME.svid("y"), HOME.bundles)
    mixed.svid = type(svid)(identity=svid.identity, certificates=svid.certificates, private_key=mixed.svid.private_key)
    with pytest.raises(ConfigError, match=svid.identity):
        TlsIdentity(mixed).stream(server_side=True)


def test_a_certificate_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="cannot be read"):
        peer_of(b"\x30\x03abc", None, HOME.bundles)
