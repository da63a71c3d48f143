"""memif links over real sockets: found, claimed, refused, lost and found again.

The shared memory is only kept here, not used: what frames do is tested with the ports.
"""

import asyncio
import contextlib
import os
import resource
import socket
import stat
import struct
import time
from pathlib import Path

import pytest

from forwarder.dataplane.memif_control import Limits, Memory, Region, Ring
from forwarder.dataplane.memif_link import MemifLink
from forwarder.dataplane.memif_listener import HALF_OPEN_MAX, MemifListeners
from forwarder.dataplane.memif_socket import socket_address
from forwarder.dataplane.spec import MemifPortSpec, Mode, Role
from forwarder.errors import DataplaneError, RemoteProtocolError
from forwarder.netns import Netns
from tests.support.memif_peer import (
    HELLO,
    ClientPeer,
    Control,
    PeerRefused,
    ServerPeer,
    make_region,
    ring_bytes,
    unix_address,
)


class KeptMemory:
    """Stands for a port: makes memory, keeps what it is given, and says what happened."""

    def __init__(self):
        self.held = None
        self.log = []
        self.refuse_region = ""
        self.refuse_attach = ""
        self.detach_may_go_on = asyncio.Event()
        self.detach_may_go_on.set()

    def check_region(self, fd, size):
        if self.refuse_region:
            raise RemoteProtocolError(self.refuse_region)
        assert os.fstat(fd).st_size >= size

    def check_ring(self, fd):
        assert os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventfd]"

    def allocate(self, *, to_server_rings, to_client_rings, log2_ring_size):
        assert (to_server_rings, to_client_rings) == (1, 1)
        one = ring_bytes(log2_ring_size)
        fd = make_region(2 * one)
        for offset in (0, one):
            os.pwrite(fd, struct.pack("<I", 0x03E31F20), offset)
        kicks = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2)]
        return Memory(
            regions=(Region(index=0, size=2 * one, fd=fd),),
            rings=tuple(
                Ring(
                    to_server=not i,
                    index=0,
                    region=0,
                    offset=i * one,
                    log2_ring_size=log2_ring_size,
                    fd=kicks[i],
                )
                for i in range(2)
            ),
        )

    def attach(self, memory):
        assert self.held is None
        if self.refuse_attach:
            memory.close()
            raise RemoteProtocolError(self.refuse_attach)
        self.held = memory
        self.log.append("attach")

    async def detach(self):
        await self.detach_may_go_on.wait()
        self.held.close()
        self.held = None
        self.log.append("detach")


def unix_socket_names():
    return [line.split()[-1] for line in Path("/proc/self/net/unix").read_text().splitlines()]


@contextlib.asynccontextmanager
async def link(role, address, *, memory=None, listeners=None, limits=None, **spec):
    made = MemifLink(
        MemifPortSpec(role=role, address=address, **spec),
        memory or KeptMemory(),
        listeners=listeners,
        limits=limits,
    )
    await made.start()
    try:
        yield made
    finally:
        await made.close()


def server(address, **options):
    return link(Role.SERVER, address, **options)


def client(address, **options):
    return link(Role.CLIENT, address, **options)


async def connect(address, **options):
    return await asyncio.to_thread(ClientPeer, address, **options)


async def greeted(address):
    control = Control.connect(address)
    await asyncio.to_thread(control.expect, HELLO)
    return control


async def wait_down(made):
    await wait_for(lambda: not made.connected)


async def wait_for(condition):
    while not condition():  # noqa: ASYNC110 - nothing to wait on: the state is the link's
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize("mode", list(Mode))
async def test_a_server_is_found_at_its_abstract_name(mode, pipelined):
    memory = KeptMemory()
    async with server("@/vwire/one", memory=memory, interface_id=9, mode=mode, secret=b"hush") as made:
        with await connect(
            "@/vwire/one", interface_id=9, mode=int(mode is Mode.IP), secret=b"hush", pipelined=pipelined
        ):
            await made.wait_connected()
            assert [region.size for region in memory.held.regions] == [4227328]
        await wait_down(made)
    assert memory.log == ["attach", "detach"]


async def test_an_abstract_name_has_exactly_its_length():
    async with server("@/vwire/exact"):
        assert "@/vwire/exact" in unix_socket_names()


async def test_a_client_finds_a_server_and_both_know_the_same_memory():
    with ServerPeer("@/vwire/peer", secret=b"hush") as peer:
        memory = KeptMemory()
        async with client("@/vwire/peer", memory=memory, secret=b"hush", interface_id=3, log2_ring_size=8) as made:
            await asyncio.to_thread(peer.accept)
            await made.wait_connected()
            assert peer.seen == (0x0200, 3, 0, b"hush", b"vwire")
            assert peer.to_server.size == peer.to_client.size == 256
            os.eventfd_write(memory.held.rings[0].fd, 1)
            assert os.eventfd_read(peer.to_server.kick) == 1


@pytest.mark.parametrize("reverse", [False, True])
async def test_sockets_live_in_the_namespace_they_are_given(two_netns, reverse):
    here, elsewhere = reversed(two_netns) if reverse else two_netns
    async with server("@/vwire/netns", netns=here.fd) as made:
        with pytest.raises(ConnectionRefusedError):
            Control.connect("@/vwire/netns", timeout_s=0)
        sock = here.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(unix_address("@/vwire/netns"))
        with await connect(Control(sock)):
            await made.wait_connected()
        async with client("@/vwire/netns", netns=here.fd) as other:
            await other.wait_connected()
        async with client("@/vwire/netns", netns=elsewhere.fd) as other:
            async with asyncio.timeout(5):
                while not other.last_end:  # noqa: ASYNC110 - nothing to wait on
                    await asyncio.sleep(0.001)
            assert not other.connected
            assert "refused" in other.last_end


async def test_the_loops_thread_stays_in_its_namespace(netns):
    before = os.stat("/proc/thread-self/ns/net").st_ino
    async with server("@/vwire/stay", netns=netns.fd), client("@/vwire/stay", netns=netns.fd) as made:
        await made.wait_connected()
        assert os.stat("/proc/thread-self/ns/net").st_ino == before


async def test_the_same_name_in_two_namespaces_is_two_sockets(two_netns):
    listeners = MemifListeners()
    a, b = two_netns
    async with (
        server("@/vwire/same", netns=a.fd, listeners=listeners) as first,
        server("@/vwire/same", netns=b.fd, listeners=listeners) as second,
        client("@/vwire/same", netns=b.fd) as made,
    ):
        await made.wait_connected()
        assert second.connected
        assert not first.connected


async def test_something_that_is_no_namespace_is_refused():
    pipe = os.pipe()
    with pytest.raises(DataplaneError):
        async with server("@/vwire/null", netns=pipe[0]):
            pass
    for fd in pipe:
        os.close(fd)


async def test_a_socket_file_is_for_owner_and_group_and_goes_with_its_directory(tmp_path):
    path = tmp_path / "made" / "deeper" / "memif.sock"
    async with server(str(path)) as made:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        with await connect(str(path)):
            await made.wait_connected()
    assert list(tmp_path.iterdir()) == []


async def test_a_stale_socket_file_is_replaced(tmp_path):
    path = tmp_path / "memif.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as crashed:
        crashed.bind(str(path))
    async with server(str(path)) as made:
        with await connect(str(path)):
            await made.wait_connected()


@pytest.mark.parametrize("kind", [socket.SOCK_SEQPACKET, socket.SOCK_STREAM])
async def test_a_socket_file_that_somebody_answers_is_left_alone(tmp_path, kind):
    path = tmp_path / "memif.sock"
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(DataplaneError, match="in use"):
            async with server(str(path)):
                pass
        assert path.is_socket()


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path):
    path = tmp_path / "memif.sock"
    path.write_text("precious")
    with pytest.raises(DataplaneError):
        async with server(str(path)):
            pass
    assert path.read_text() == "precious"


async def test_a_name_that_somebody_holds_is_refused():
    with ServerPeer("@/vwire/held"), pytest.raises(DataplaneError, match="in use"):
        async with server("@/vwire/held"):
            pass


@pytest.mark.parametrize("address", ["", "@", "@" + "x" * 108, "/" + "y" * 107])
def test_addresses_that_do_not_fit_are_refused(address):
    with pytest.raises(DataplaneError):
        socket_address(address)


def test_addresses_that_just_fit_are_taken():
    assert len(socket_address("@" + "x" * 107)) == 108
    assert len(socket_address("/" + "y" * 106)) == 107


async def test_one_socket_serves_several_interfaces():
    listeners = MemifListeners()
    async with (
        server("@/vwire/shared", interface_id=1, listeners=listeners) as first,
        server("@/vwire/shared", interface_id=2, secret=b"two", listeners=listeners) as second,
    ):
        with await connect("@/vwire/shared", interface_id=2, secret=b"two"):
            await second.wait_connected()
            assert not first.connected
            with await connect("@/vwire/shared", interface_id=1):
                await first.wait_connected()
    with pytest.raises(ConnectionRefusedError):
        Control.connect("@/vwire/shared", timeout_s=0)


async def test_an_interface_leaves_a_shared_socket_without_closing_it():
    listeners = MemifListeners()
    async with server("@/vwire/shared", interface_id=1, listeners=listeners) as first:
        async with server("@/vwire/shared", interface_id=2, listeners=listeners):
            pass
        with pytest.raises(PeerRefused):
            await connect("@/vwire/shared", interface_id=2)
        with await connect("@/vwire/shared", interface_id=1):
            await first.wait_connected()


async def test_an_id_cannot_be_served_twice_at_one_socket():
    listeners = MemifListeners()
    async with server("@/vwire/dup", interface_id=1, listeners=listeners):
        with pytest.raises(DataplaneError, match="already has an interface 1"):
            async with server("@/vwire/dup", interface_id=1, listeners=listeners):
                pass


@pytest.mark.parametrize(
    "wrong", [{"secret": b"guess"}, {"interface_id": 5, "secret": b"hush"}, {"mode": 1, "secret": b"hush"}]
)
async def test_a_peer_that_does_not_fit_is_told_and_harms_nobody(wrong):
    async with server("@/vwire/strict", secret=b"hush") as made:
        with pytest.raises(PeerRefused, match="memif"):
            await connect("@/vwire/strict", **wrong)
        with await connect("@/vwire/strict", secret=b"hush"):
            await made.wait_connected()


async def test_a_second_peer_is_refused_while_the_first_is_there():
    async with server("@/vwire/busy") as made:
        with await connect("@/vwire/busy"):
            await made.wait_connected()
            with pytest.raises(PeerRefused, match="already connected"):
                await connect("@/vwire/busy")
            assert made.connected
        assert made.connections == 1


async def test_a_peer_that_comes_back_at_once_is_let_in():
    memory = KeptMemory()
    async with server("@/vwire/again", memory=memory) as made:

        def come_and_go():
            for _ in range(50):
                ClientPeer("@/vwire/again").close()

        await asyncio.to_thread(come_and_go)
        await wait_for(lambda: made.connections == 50)
        await wait_down(made)
    assert memory.log == ["attach", "detach"] * 50


async def test_a_new_peer_waits_until_the_old_ones_memory_is_gone():
    memory = KeptMemory()
    async with server("@/vwire/slow", memory=memory) as made:
        with await connect("@/vwire/slow"):
            await made.wait_connected()
            memory.detach_may_go_on.clear()
        coming = asyncio.create_task(connect("@/vwire/slow"))
        await asyncio.sleep(0.05)
        assert memory.log == ["attach"]
        memory.detach_may_go_on.set()
        with await coming:
            assert memory.log == ["attach", "detach", "attach"]
            await made.wait_connected()


@pytest.mark.parametrize("farewell", [None, "going home"])
async def test_a_client_comes_back_with_new_memory(farewell):
    memory = KeptMemory()
    with ServerPeer("@/vwire/back") as peer:
        async with client("@/vwire/back", memory=memory) as made:
            inodes = set()
            for _ in range(5):
                await asyncio.to_thread(peer.accept)
                await made.wait_connected()
                inodes.add(os.fstat(memory.held.regions[0].fd).st_ino)
                peer.drop(farewell)
                await wait_down(made)
                assert made.last_end == farewell or farewell is None
            assert len(inodes) == 5


async def test_a_client_waits_for_its_server():
    async with client("@/vwire/late") as made:
        await asyncio.sleep(0.1)
        assert not made.connected
        with ServerPeer("@/vwire/late") as peer:
            await asyncio.to_thread(peer.accept)
            await made.wait_connected()


async def test_a_server_that_hangs_up_at_once_is_not_hammered():
    tries = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as rude:
        rude.bind(unix_address("@/vwire/rude"))
        rude.listen(128)
        rude.setblocking(False)
        async with client("@/vwire/rude"):
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                try:
                    rude.accept()[0].close()
                    tries += 1
                except BlockingIOError:
                    await asyncio.sleep(0.002)
    assert 2 <= tries <= 12


async def test_a_closing_link_says_goodbye_in_both_roles():
    async with server("@/vwire/bye") as made:
        peer = await connect("@/vwire/bye")
        await made.wait_connected()
        await made.close("maintenance")
        with peer, pytest.raises(PeerRefused, match="maintenance"):
            peer.control.receive()
    with ServerPeer("@/vwire/bye") as other:
        async with client("@/vwire/bye") as made:
            await asyncio.to_thread(other.accept)
            await made.wait_connected()
        with pytest.raises(PeerRefused, match="closed"):
            other.control.receive()


async def test_a_violation_seen_by_the_data_plane_ends_the_connection_but_not_the_link():
    memory = KeptMemory()
    async with server("@/vwire/fault", memory=memory) as made:
        with await connect("@/vwire/fault") as peer:
            await made.wait_connected()
            made.disconnect("descriptor outside its region")
            with pytest.raises(PeerRefused, match="descriptor outside"):
                peer.control.receive()
        with await connect("@/vwire/fault"):
            await made.wait_connected()


async def test_what_the_port_refuses_the_peer_is_told():
    memory = KeptMemory()
    async with server("@/vwire/no", memory=memory) as made:
        memory.refuse_region = "region 0 can shrink"
        with pytest.raises(PeerRefused, match="region 0 can shrink"):
            await connect("@/vwire/no")
        memory.refuse_region, memory.refuse_attach = "", "wrong cookie"
        with pytest.raises(PeerRefused, match="wrong cookie"):
            await connect("@/vwire/no", pipelined=True)
        memory.refuse_attach = ""
        with await connect("@/vwire/no"):
            await made.wait_connected()
    assert memory.log == ["attach", "detach"]


async def test_a_peer_that_says_nothing_is_sent_away():
    async with server("@/vwire/mute", limits=Limits(handshake_s=0.1)):
        control = await greeted("@/vwire/mute")
        with pytest.raises(PeerRefused, match="handshake"):
            await asyncio.to_thread(control.receive)
        control.close()


async def test_a_process_out_of_descriptors_rests_and_goes_on(caplog):
    async with server("@/vwire/full") as made:
        crowd = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(20)]
        usual = resource.getrlimit(resource.RLIMIT_NOFILE)
        os.close(lowest := os.dup(0))
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 5, usual[1]))
            for sock in crowd:
                sock.connect(unix_address("@/vwire/full"))
            await asyncio.sleep(0.25)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, usual)
        complaints = [record for record in caplog.records if "cannot accept" in record.message]
        assert 1 <= len(complaints) <= 4
        with await connect("@/vwire/full"):
            await made.wait_connected()
        for sock in crowd:
            sock.close()


async def test_a_thousand_silent_peers_keep_nobody_out():
    async with server("@/vwire/crowd") as made:
        before = len(os.listdir("/proc/self/fd"))
        crowd = []
        try:
            for _ in range(1000):
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                sock.setblocking(False)
                crowd.append(sock)
                while True:
                    try:
                        sock.connect(unix_address("@/vwire/crowd"))
                        break
                    except BlockingIOError:
                        await asyncio.sleep(0)
            with await connect("@/vwire/crowd"):
                await made.wait_connected()
            await wait_down(made)
        finally:
            held = len(os.listdir("/proc/self/fd")) - before - len(crowd)
            for sock in crowd:
                sock.close()
        assert held <= HALF_OPEN_MAX + 1
        await wait_for(lambda: len(os.listdir("/proc/self/fd")) <= before)


@pytest.mark.parametrize(
    "data",
    [b"\x03", b"\x03\x00" + bytes(125), b"\x03\x00" + bytes(127), bytes(128), b"\xff" * 128],
    ids=["one byte", "one short", "one long", "type 0", "type 65535"],
)
async def test_malformed_messages_end_the_connection(data):
    async with server("@/vwire/form") as made:
        control = await greeted("@/vwire/form")
        control.send_raw(data)
        with pytest.raises(PeerRefused, match="memif message"):
            await asyncio.to_thread(control.receive)
        control.close()
        assert not made.connected


@pytest.mark.parametrize("count", [1, 2, 250])
async def test_descriptors_nobody_asked_for_are_closed(count):
    async with server("@/vwire/gifts"):
        control = await greeted("@/vwire/gifts")
        control.send(3, struct.pack("<HIB", 0x200, 0, 0), [0] * count)
        control.send(4, struct.pack("<HQ", 0, 4096), [0] * count)
        with pytest.raises(PeerRefused, match=f"{count} descriptors"):
            await asyncio.to_thread(control.receive)
        control.close()


async def test_a_start_that_fails_leaves_nothing():
    made = MemifLink(MemifPortSpec(role=Role.CLIENT, address="@"), KeptMemory())
    with pytest.raises(DataplaneError):
        await made.start()
    await made.close()


async def test_a_link_that_is_closed_while_its_socket_is_being_opened_does_not_connect():
    async with link(Role.SERVER, "@/vwire/early"):
        with Netns.current() as here:
            made = MemifLink(
                MemifPortSpec(role=Role.CLIENT, address="@/vwire/early", netns=here.fileno()), KeptMemory()
            )
            await made.start()
            await asyncio.sleep(0)  # its task is on the way to another thread
            await made.close()
            assert made.connections == 0


async def test_closing_can_be_cancelled_and_still_closes():
    memory = KeptMemory()
    made = MemifLink(MemifPortSpec(role=Role.SERVER, address="@/vwire/cancel"), memory)
    await made.start()
    with await connect("@/vwire/cancel"):
        await made.wait_connected()
        memory.detach_may_go_on.clear()
        closing = asyncio.create_task(made.close())
        await asyncio.sleep(0.01)
        closing.cancel()
        await asyncio.sleep(0.01)
        assert not closing.done()
        memory.detach_may_go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await closing
    assert memory.log == ["attach", "detach"]
