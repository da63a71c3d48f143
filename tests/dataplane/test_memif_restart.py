"""A memif peer that goes and comes back gets its frames again, and what it left behind is counted."""

import asyncio
from pathlib import Path

import pytest

from forwarder.dataplane import Dataplane, MemifPortSpec, Mode, PortIO, Role, memif_link
from tests.support.counters import settled
from tests.support.memif_peer import ClientPeer, ServerPeer
from tests.support.port_kinds import KINDS, memif_address

FRAMES = [n.to_bytes(4, "big") * 15 for n in range(100)]


async def wait_down(port: object) -> None:
    async with asyncio.timeout(5):
        while port.connected:  # type: ignore[attr-defined] # noqa: ASYNC110 - nothing to wait on
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("file", [False, True], ids=["abstract", "file"])
@pytest.mark.parametrize("role", list(Role))
async def test_frames_flow_again_as_often_as_the_peer_restarts(role: Role, file: bool, tmp_path: Path) -> None:
    address = str(tmp_path / "memif.sock") if file else memif_address()
    spec = MemifPortSpec(role=role, address=address, log2_ring_size=8)
    async with (
        Dataplane() as dataplane,
        dataplane.memif_port(spec) as port,
        KINDS["memif-client"](dataplane, Mode.ETHERNET) as far,
        dataplane.vwire(port, far.port) as wire,
    ):
        for away_s in (0, 0.001, 0.05):
            peer: ClientPeer | ServerPeer
            if role is Role.SERVER:
                peer = await asyncio.to_thread(lambda: ClientPeer(address, log2=8))
            else:
                peer = ServerPeer(address)
                await asyncio.to_thread(peer.accept)
            with peer:
                await asyncio.wait_for(port.wait_connected(), 5)
                await asyncio.to_thread(peer.send_all, FRAMES)
                assert await far.receive(100) == FRAMES
                await far.send(FRAMES)
                assert await asyncio.to_thread(peer.receive_all, 100) == FRAMES
            await wait_down(port)
            await asyncio.sleep(away_s)
        seen = await settled(wire)
        assert seen.a_to_b.in_frames == seen.b_to_a.out_frames == 300
        assert seen.a_to_b.drops == seen.b_to_a.drops == {}


@pytest.mark.parametrize("deep", [False, True], ids=["directory", "no-directory"])
async def test_a_socket_file_is_found_when_it_appears(
    deep: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by trying again: that takes an hour here."""
    monkeypatch.setattr(memif_link, "KNOCK_FIRST_S", 3600.0)
    monkeypatch.setattr(memif_link, "KNOCK_LONGEST_S", 3600.0)
    path = tmp_path / "run" / "app" / "memif.sock" if deep else tmp_path / "memif.sock"
    spec = MemifPortSpec(role=Role.CLIENT, address=str(path), log2_ring_size=8)
    async with Dataplane() as dataplane, dataplane.memif_port(spec) as port:
        for _ in range(2):
            await asyncio.sleep(0.02)
            if deep:
                for directory in (path.parent.parent, path.parent):
                    if not directory.exists():
                        directory.mkdir()
                        await asyncio.sleep(0.02)
            (tmp_path / "another").touch()
            with ServerPeer(str(tmp_path / "early.sock")) as peer:
                # Listened on already when it gets its name.
                (tmp_path / "early.sock").rename(path)
                peer.address = str(path)
                await asyncio.to_thread(peer.accept)
                await asyncio.wait_for(port.wait_connected(), 5)
            await wait_down(port)


@pytest.mark.parametrize("file", [False, True], ids=["abstract", "file"])
async def test_a_peer_that_restarts_often_is_found_as_soon_each_time(
    file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of its connections lasts; were pauses doubled for that, the last would be of hours."""
    monkeypatch.setattr(memif_link, "RETRY_FIRST_S", 0.002)
    monkeypatch.setattr(memif_link, "RETRY_LONGEST_S", 1e9)
    address = str(tmp_path / "memif.sock") if file else memif_address()
    spec = MemifPortSpec(role=Role.CLIENT, address=address, log2_ring_size=8)
    async with Dataplane() as dataplane, dataplane.memif_port(spec) as port:
        for _ in range(25):
            with ServerPeer(address) as peer:
                await asyncio.to_thread(peer.accept)
                await asyncio.wait_for(port.wait_connected(), 5)
            await wait_down(port)
            async with asyncio.timeout(5):
                while "cannot connect" not in port.link.last_end:  # noqa: ASYNC110 - nothing to wait on
                    await asyncio.sleep(0.001)


async def test_a_server_whose_file_is_made_anew_is_not_taken_for_the_one_that_sent_us_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its predecessor's ending our connection is followed by a pause of an hour here."""
    monkeypatch.setattr(memif_link, "RETRY_FIRST_S", 3600.0)
    monkeypatch.setattr(memif_link, "RETRY_LONGEST_S", 3600.0)
    address = str(tmp_path / "memif.sock")
    spec = MemifPortSpec(role=Role.CLIENT, address=address, log2_ring_size=8)
    async with Dataplane() as dataplane, dataplane.memif_port(spec) as port:
        for _ in range(3):
            with ServerPeer(address) as peer:
                await asyncio.to_thread(peer.accept)
                await asyncio.wait_for(port.wait_connected(), 5)
                peer.drop("go away")
                async with asyncio.timeout(5):
                    while not inotify_descriptors():  # noqa: ASYNC110 - nothing to wait on
                        await asyncio.sleep(0.001)


async def test_many_links_share_one_watch(tmp_path: Path) -> None:
    async with Dataplane() as dataplane:

        async def one(number: int) -> None:
            address = str(tmp_path / f"{number}.sock")
            spec = MemifPortSpec(role=Role.CLIENT, address=address, log2_ring_size=8)
            async with dataplane.memif_port(spec) as port:
                await asyncio.sleep(0.05)
                assert len(inotify_descriptors()) == 1
                with ServerPeer(address) as peer:
                    await asyncio.to_thread(peer.accept)
                    await asyncio.wait_for(port.wait_connected(), 5)
                    await connected.wait()

        connected = asyncio.Barrier(20)
        await asyncio.gather(*(one(number) for number in range(20)))
        async with asyncio.timeout(5):
            while inotify_descriptors():  # noqa: ASYNC110 - closed on a thread that nobody waits for
                await asyncio.sleep(0.001)


def inotify_descriptors() -> list[str]:
    return [
        link.name for link in Path("/proc/self/fd").iterdir() if link.is_symlink() and "inotify" in str(_target(link))
    ]


def _target(link: Path) -> Path:
    try:
        return link.readlink()
    except FileNotFoundError:
        return link


@pytest.mark.parametrize("role", list(Role))
async def test_frames_that_the_peer_left_unread_behind_are_counted(role: Role) -> None:
    """Sent, but never received by anything of ours: they are in no vWire's count."""
    address = memif_address()
    spec = MemifPortSpec(role=role, address=address, log2_ring_size=8)
    async with Dataplane() as dataplane, dataplane.memif_port(spec) as port:
        for round_ in range(1, 3):
            peer: ClientPeer | ServerPeer
            if role is Role.SERVER:
                peer = await asyncio.to_thread(lambda: ClientPeer(address, log2=8))
            else:
                peer = ServerPeer(address)
                await asyncio.to_thread(peer.accept)
            with peer:
                await asyncio.wait_for(port.wait_connected(), 5)
                with PortIO(port) as io:
                    peer.send([bytes(60)] * 20)
                    assert len(io.read(10)) >= 10
                    peer.send([bytes(60)] * 10 + [bytes(9000)] * 3)
                    read = io.statistics()[0].in_frames
            await wait_down(port)
            if round_ == 1:
                first = port.statistics().missed
                assert read + first == 33
        assert read + port.statistics().missed - first == 33


async def test_what_a_vanished_peer_sent_was_received_or_is_counted_as_missed() -> None:
    spec = MemifPortSpec(role=Role.SERVER, address=memif_address(), log2_ring_size=8)
    async with (
        Dataplane() as dataplane,
        dataplane.memif_port(spec) as port,
        KINDS["memif-client"](dataplane, Mode.ETHERNET) as far,
        dataplane.vwire(port, far.port) as wire,
    ):
        sent = 0
        for _ in range(10):
            peer = await asyncio.to_thread(lambda: ClientPeer(spec.address, log2=8))
            await asyncio.wait_for(port.wait_connected(), 5)
            sent += peer.send([bytes(60)] * 256)
            peer.close()
            await wait_down(port)
            await far.receive(1000, 0.02)
        flow = (await settled(wire)).a_to_b
        assert flow.in_frames + port.statistics().missed == sent == 2560
        assert flow.in_frames == flow.out_frames + flow.dropped_frames
