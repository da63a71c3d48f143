"""Between a peer's socket and gRPC: TLS, who the peer is, open files, and peers that behave badly."""

import array
import asyncio
import os
import random
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from forwarder.api.connection_pb2 import Connection, Mechanism
from forwarder.api.mechanisms import Kernel
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.errors import NextHopError
from forwarder.rpc import Call, Channel, Channels, NextHop, dial, front, network_service, serve
from forwarder.rpc.refusal import PREFACE
from forwarder.rpc.transport import FILES_AT_ONCE
from tests.support.domain import until
from tests.support.identities import Held, TrustDomain

HOME = TrustDomain()


class Reader:
    """Reads the files that mechanisms name, answers with a file of its own."""

    def __init__(self, answer: str = "") -> None:
        self.calls: list[Call] = []
        self.read: list[str] = []
        self.wait = asyncio.Event()
        self.wait.set()
        self._answer = answer

    async def request(self, request: NetworkServiceRequest, call: Call) -> Connection:
        self.calls.append(call)
        await self.wait.wait()
        self.read = [content(mechanism) for mechanism in request.mechanism_preferences]
        connection = request.connection
        if self._answer:
            connection.mechanism.CopyFrom(named(self._answer))
        return connection

    async def close(self, connection: Connection, call: Call) -> None:
        """Nothing to close."""


def named(path: str | Path) -> Mechanism:
    return Kernel.new(inode_url=f"file://{path}").mechanism


def content(mechanism: Mechanism) -> str:
    url = Kernel(mechanism).inode_url
    return Path(url.removeprefix("file://")).read_text() if url.startswith("file://") else url


def files(directory: Path, count: int) -> list[Path]:
    made = [directory / f"file-{number}" for number in range(count)]
    for path in made:
        path.write_text(path.name)
    return made


def a_request(name: str = "nsc-0", *paths: Path, padding: int = 0) -> NetworkServiceRequest:
    return NetworkServiceRequest(
        connection=Connection(id=name, labels={"padding": "x" * padding}),
        mechanism_preferences=[named(path) for path in paths],
    )


@pytest.fixture(params=["unix", "tcp"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"unix://{tmp_path}/nsm.sock" if request.param == "unix" else "tcp://127.0.0.1:0"


@pytest.fixture
def unix(tmp_path: Path) -> str:
    return f"unix://{tmp_path}/nsm.sock"


@asynccontextmanager
async def running(
    handler: Reader, url: str, server: Held | None, client: Held | None
) -> AsyncIterator[tuple[str, Channel]]:
    async with (
        serve([network_service(handler)], [url], identity=server) as made,
        dial(made.urls[0], timeout_s=30, identity=client) as channel,
    ):
        yield made.urls[0], channel


def connected(url: str) -> socket.socket:
    """A peer with a socket and no manners."""
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(30)
    made.connect(url.removeprefix("unix://"))
    return made


def shake_hands(peer: socket.socket, identity: Held, *, alpn: bool = True) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(["h2"])
    with_key = Path(f"/proc/self/fd/{os.memfd_create('pem')}")
    key = ssl.DER_cert_to_PEM_cert(identity.svid.private_key).replace("CERTIFICATE", "PRIVATE KEY")
    with_key.write_text(ssl.DER_cert_to_PEM_cert(identity.svid.certificates[0]) + key)
    context.load_cert_chain(with_key)
    os.close(int(with_key.name))
    return context.wrap_socket(peer)


async def answers(channel: Channel) -> bool:
    return (await NextHop(channel).request(a_request("alive"), timeout_s=30)).id == "alive"


# --- Who the peer is ------------------------------------------------------------------------


async def test_both_ends_know_each_other_by_certificate(url: str) -> None:
    handler, server, client = Reader(), HOME.identity("server"), HOME.identity("client")
    async with running(handler, url, server, client) as (_, channel):
        assert await answers(channel)
        assert channel.tls_peer is not None
        assert channel.tls_peer.identity == "spiffe://example.org/server"
        caller = handler.calls[0].tls_peer
        assert caller is not None
        assert (caller.identity, caller.certificate) == ("spiffe://example.org/client", client.svid.certificates[0])
        assert (caller.shown, channel.tls_peer.shown) == (server.svid, client.svid)


BAD = {
    "another authority": (lambda: Held(TrustDomain().svid("x"), HOME.bundles), "unknown ca", "not accepted"),
    "expired": (lambda: HOME.identity("x", expired=True), "certificate expired", "expired"),
    "two names": (lambda: HOME.identity("x", uris=["spiffe://a/b", "spiffe://a/c"]), "2 URIs", "2 URIs"),
    "an authority's": (lambda: HOME.identity("x", ca=True), "may sign", "may sign"),
}


@pytest.mark.parametrize("kind", BAD)
async def test_a_client_that_proves_nothing_is_refused_and_both_ends_say_why(
    kind: str, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, told, logged = BAD[kind]
    async with serve([network_service(Reader())], [url], identity=HOME.identity("server")) as server:
        with pytest.raises(NextHopError, match=f"refused.*{told}"):
            async with dial(server.urls[0], timeout_s=30, identity=make()):
                pass
    assert logged in caplog.text


@pytest.mark.parametrize("kind", BAD)
async def test_a_server_that_proves_nothing_is_refused_and_both_ends_say_why(
    kind: str, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, told, raised = BAD[kind]
    caplog.set_level("INFO")
    async with serve([network_service(Reader())], [url], identity=make()) as server:
        with pytest.raises(NextHopError, match=raised):
            async with dial(server.urls[0], timeout_s=30, identity=HOME.identity("client")):
                pass
        await until(lambda: told in caplog.text)


async def test_a_server_with_tls_tells_a_client_without(unix: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serve([network_service(Reader())], [unix], identity=HOME.identity("server")):
        with pytest.raises(NextHopError, match="wants TLS"):
            async with dial(unix, timeout_s=30):
                pass
    assert "does not speak TLS" in caplog.text


async def test_a_client_with_tls_notices_a_server_without(unix: str) -> None:
    async with serve([network_service(Reader())], [unix]):
        with pytest.raises(NextHopError, match="TLS"):
            async with dial(unix, timeout_s=0.3, identity=HOME.identity("client")):
                pass


async def test_a_client_without_the_protocol_is_refused(unix: str, caplog: pytest.LogCaptureFixture) -> None:
    def stranger() -> bytes:
        with shake_hands(connected(unix), HOME.identity("x"), alpn=False) as peer:
            return peer.recv(4096)

    async with serve([network_service(Reader())], [unix], identity=HOME.identity("server")):
        assert b"'h2' by ALPN" in await asyncio.to_thread(stranger)
    assert "'h2' by ALPN" in caplog.text


async def test_a_certificate_is_exchanged_under_way_and_no_call_is_lost(url: str) -> None:
    handler, server, client = Reader(), HOME.identity("server"), HOME.identity("client")
    async with (
        serve([network_service(handler)], [url], identity=server) as made,
        Channels(timeout_s=30, identity=client) as channels,
    ):
        handler.wait.clear()
        async with channels.lend(made.urls[0]) as first:
            under_way = [asyncio.ensure_future(answers(first)) for _ in range(20)]
            await until(lambda: len(handler.calls) == 20)
            server.svid, client.svid = HOME.svid("server-2"), HOME.svid("client-2")
            async with channels.lend(made.urls[0]) as second:
                assert second.tls_peer is not None
                assert second.tls_peer.identity == "spiffe://example.org/server-2"
                handler.wait.set()
                assert await answers(second)
            assert all(await asyncio.gather(*under_way))
            assert first.connected
    callers = [call.tls_peer.identity for call in handler.calls if call.tls_peer is not None]
    assert callers == ["spiffe://example.org/client"] * 20 + ["spiffe://example.org/client-2"]


# --- Open files -----------------------------------------------------------------------------


@pytest.mark.parametrize("secured", [True, False], ids=["tls", "plain"])
async def test_files_go_both_ways_beside_large_messages(unix: str, secured: bool, tmp_path: Path) -> None:
    paths = files(tmp_path, 100)
    answer = tmp_path / "answer"
    answer.write_text("the answer")
    handler = Reader(str(answer))
    server, client = (HOME.identity("server"), HOME.identity("client")) if secured else (None, None)
    async with running(handler, unix, server, client) as (_, channel):
        for _ in range(3):
            with channel.files("nsc-0").kept():
                made = await NextHop(channel).request(a_request("nsc-0", *paths, padding=200_000), timeout_s=30)
                assert handler.read == [path.name for path in paths]
                assert content(made.mechanism) == "the answer"
                assert Kernel(made.mechanism).inode_url != f"file://{answer}"


async def test_each_of_many_calls_on_one_connection_gets_its_own_file(unix: str, tmp_path: Path) -> None:
    seen: dict[str, str] = {}

    class ByCall(Reader):
        async def request(self, request: NetworkServiceRequest, call: Call) -> Connection:
            seen[request.connection.id] = content(request.mechanism_preferences[0])
            return request.connection

    paths = files(tmp_path, 50)
    async with running(ByCall(), unix, None, None) as (_, channel):
        hop = NextHop(channel)
        # Each file twice, for two connections: one duplicate is enough for both.
        calls = [(f"{path.name}/{number}", path) for path in paths for number in range(2)]
        await asyncio.gather(*(hop.request(a_request(name, path), timeout_s=30) for name, path in calls))
    assert seen == {name: path.name for name, path in calls}


async def test_a_handler_that_keeps_the_files_of_a_connection_has_them_under_one_name(
    unix: str, tmp_path: Path
) -> None:
    held = []

    class Keeper(Reader):
        async def request(self, request: NetworkServiceRequest, call: Call) -> Connection:
            if not held:
                keep = call.descriptors.kept()
                keep.__enter__()
                held.append(keep)
            self.calls.append(call)
            self.read.append(Kernel(request.mechanism_preferences[0]).inode_url)
            return request.connection

    handler = Keeper()
    [path] = files(tmp_path, 1)
    async with running(handler, unix, None, None) as (url, channel):
        await NextHop(channel).request(a_request("nsc-0", path), timeout_s=30)
        async with dial(url, timeout_s=30) as other:
            await NextHop(other).request(a_request("nsc-0", path), timeout_s=30)
            await NextHop(other).request(a_request("nsc-1", path), timeout_s=30)
        first, again, another = (Path(each.removeprefix("file://")) for each in handler.read)
        assert again == first
        assert first.read_text() == path.name
        assert not another.exists()
        held[0].__exit__(None, None, None)
        assert not first.exists()


async def test_what_never_came_is_left_to_be_found_by_its_numbers(unix: str, tmp_path: Path) -> None:
    handler = Reader()
    async with running(handler, unix, None, None) as (_, channel):
        request = a_request()
        request.mechanism_preferences.add().parameters["inodeURL"] = "inode://1/2"
        await NextHop(channel).request(request, timeout_s=30)
        assert handler.read == ["inode://1/2"]
        # A peer that does send some is waited for, though not for ever.
        request.mechanism_preferences.append(named(files(tmp_path, 1)[0]))
        await NextHop(channel).request(request, timeout_s=30)
        assert handler.read == ["inode://1/2", "file-0"]


# --- Bad manners ----------------------------------------------------------------------------


async def test_noise_is_refused_and_nobody_else_notices(unix: str) -> None:
    server, client = HOME.identity("server"), HOME.identity("client")
    noise = random.Random(7)
    beginnings = [b"", b"\x16\x03\x01\x02\x00", PREFACE, b"\x16\x03\x03\xff\xff", b"GET / HTTP/1.1\r\n\r\n"]

    def be_noisy() -> None:
        for beginning in beginnings * 4:
            with connected(unix) as peer, suppress(OSError):
                peer.sendall(beginning + noise.randbytes(noise.randrange(3000)))
                if noise.random() < 0.5:
                    peer.shutdown(socket.SHUT_WR)
                    while peer.recv(4096):
                        pass

    async with running(Reader(), unix, server, client) as (_, channel):
        await asyncio.to_thread(be_noisy)
        assert await answers(channel)


async def test_noise_after_the_handshake_ends_that_connection_only(unix: str) -> None:
    server, client = HOME.identity("server"), HOME.identity("client")

    def babble(raw: bool) -> bytes:
        peer = shake_hands(connected(unix), client)
        with peer, suppress(OSError):
            if raw:
                os.write(peer.fileno(), b"\x17\x03\x03\x00\x40" + bytes(64))
            else:
                peer.sendall(b"\xff" * 5000)
            while peer.recv(4096):
                pass
        return b""

    async with running(Reader(), unix, server, client) as (_, channel):
        for raw in (True, False):
            await asyncio.to_thread(babble, raw)
        assert await answers(channel)


async def test_more_files_than_there_is_room_for_end_the_connection(
    unix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    def overflow() -> bytes:
        opened = [os.open(path, os.O_RDONLY) for path in files(tmp_path, 100)]
        try:
            with connected(unix) as peer:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", opened))]
                peer.sendmsg([PREFACE], rights)
                return peer.recv(4096)
        except ConnectionResetError:
            return b""
        finally:
            for descriptor in opened:
                os.close(descriptor)

    async with running(Reader(), unix, None, None) as (_, channel):
        before = len(os.listdir("/proc/self/fd"))
        await asyncio.to_thread(overflow)
        await until(lambda: "more than 64 in one message" in caplog.text)
        assert len(os.listdir("/proc/self/fd")) <= before
        assert await answers(channel)


async def test_a_peer_that_has_proved_nothing_cannot_make_us_hold_many_files(
    unix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = [os.open(path, os.O_RDONLY) for path in files(tmp_path, 2 * FILES_AT_ONCE)]
    halves = [array.array("i", opened[:FILES_AT_ONCE]), array.array("i", opened[FILES_AT_ONCE:])]
    try:
        async with running(Reader(), unix, HOME.identity("server"), HOME.identity("client")) as (_, channel):
            with connected(unix) as peer:
                for byte, half in zip((b"\x16", b"\x03"), halves, strict=True):  # the handshake's first
                    peer.sendmsg([byte], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, half)])
                await until(lambda: "open files before it has proved who it is" in caplog.text)
            assert await answers(channel)
    finally:
        for descriptor in opened:
            os.close(descriptor)


async def test_a_handshake_that_is_not_finished_makes_way(
    unix: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(front, "HANDSHAKES", 4)
    monkeypatch.setattr(front, "HANDSHAKE_S", 0.5)
    async with running(Reader(), unix, HOME.identity("server"), HOME.identity("client")) as (url, channel):
        idle = [connected(unix) for _ in range(20)]
        try:
            async with dial(url, timeout_s=30, identity=HOME.identity("client")) as another:
                assert await answers(another)
            assert await answers(channel)
            for peer in idle:
                assert await asyncio.to_thread(peer.recv, 1) == b""
        finally:
            for peer in idle:
                peer.close()
    assert "given up" in caplog.text


async def test_one_who_does_not_read_holds_up_nobody_else(unix: str) -> None:
    handler = Reader()
    client = HOME.identity("client")
    async with (
        running(handler, unix, HOME.identity("server"), client) as (url, channel),
        dial(url, timeout_s=30, identity=client) as slow,
    ):
        relay = slow._relay
        assert relay is not None
        asyncio.get_running_loop().remove_reader(relay.transport.socket)
        stuck = [
            asyncio.ensure_future(NextHop(slow).request(a_request(str(n), padding=1 << 20), timeout_s=60))
            for n in range(3)
        ]
        await until(lambda: len(handler.calls) == 3)
        for _ in range(20):
            assert await answers(channel)
        assert not any(each.done() for each in stuck)
        asyncio.get_running_loop().add_reader(relay.transport.socket, relay._inward._readable)
        assert [(await each).id for each in stuck] == ["0", "1", "2"]


async def test_many_who_connect_for_one_request_each_are_all_served(unix: str, tmp_path: Path) -> None:
    [path] = files(tmp_path, 1)
    server, client = HOME.identity("server"), HOME.identity("client")
    handler = Reader()

    async def one(number: int) -> bool:
        async with dial(unix, timeout_s=60, identity=client) as channel:
            made = await NextHop(channel).request(a_request(str(number), path), timeout_s=60)
            return made.id == str(number) and handler.read == [path.name]

    async with serve([network_service(handler)], [unix], identity=server):
        assert all(await asyncio.gather(*(one(number) for number in range(200))))
