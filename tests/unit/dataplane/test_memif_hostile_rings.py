"""A peer may write anything into the shared memory: it hurts its own frames, and is found out."""

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.dataplane.memif import MemifSession
from forwarder.errors import RemoteProtocolError
from tests.support.memif_peer import NEXT
from tests.support.memif_rings import Hostile, hostile

NO_WRITES = bytes(60)


def offer(peer: Hostile, count: int, **fields: int) -> None:
    """Puts `count` equal descriptors into the ring to the server, and publishes them."""
    ring = peer.to_server
    for _ in range(count):
        ring.write(ring.head, **({"length": 60, "offset": peer.layout.to_server_buffers} | fields))
        ring.head += 1


BAD_DESCRIPTORS = {
    "no-such-region": {"region": 1},
    "last-region-number": {"region": 0xFFFF},
    "offset-behind-the-region": {"offset": 0xFFFFFFFF},
    "end-behind-the-region": {"offset": 256 * 2048 * 2 + 2 * (128 + 4096) - 59},
    "length-beyond-32-bits-together": {"offset": 0xFFFFFFFF, "length": 0xFFFFFFFF},
    "whole-address-space": {"offset": 0, "length": 0xFFFFFFFF},
    "no-length": {"length": 0},
}


@pytest.mark.parametrize("fields", BAD_DESCRIPTORS.values(), ids=BAD_DESCRIPTORS)
def test_a_bad_descriptor_costs_its_frame_and_no_other(fields: dict[str, int]) -> None:
    with hostile(server=True) as peer:
        offer(peer, 3)
        offer(peer, 2, **fields)
        offer(peer, 3)
        assert len(peer.io.read()) == 6
        assert peer.drops == {"bad_descriptor": 2}
        assert peer.to_server.tail == 8
        assert not peer.io.port.dead


def test_a_peer_that_keeps_on_is_given_up() -> None:
    with hostile(server=True) as peer:
        told: list[str] = []
        peer.io.port.on_fault = told.append
        offer(peer, 100, region=3)
        assert peer.io.read() == []
        assert peer.drops == {"bad_descriptor": 64}
        assert told == ["the peer sent too many bad descriptors"]
        assert peer.io.port.dead
        offer(peer, 1)
        assert peer.io.read() == []
        assert peer.io.write([NO_WRITES]) == 1
        assert peer.io.statistics()[1].drops == {"link_down": 1}


@pytest.mark.parametrize("jump", [257, 1000, 0x8000, 0xFFFF])
def test_an_index_that_jumps_is_found_out(jump: int) -> None:
    with hostile(server=True) as peer:
        peer.to_server.head = jump
        assert peer.io.read() == []
        assert peer.io.port.fault == "the peer moved a ring index by more than the ring has"


@pytest.mark.parametrize("jump", [257, 0x8000, 0xFFFF])
def test_a_server_s_index_that_jumps_is_found_out(jump: int) -> None:
    with hostile(server=False) as peer:
        peer.to_client.tail = jump
        assert peer.io.read() == []
        assert peer.io.port.dead
    with hostile(server=False) as peer:
        peer.to_server.tail = jump
        # The ring is taken for full or the index for wrong, but nothing is overwritten twice.
        assert peer.io.write([NO_WRITES] * 300) <= 256
        peer.io.write([NO_WRITES] * 300)
        assert peer.io.port.dead


def test_a_server_that_gives_back_what_it_was_not_given_is_found_out() -> None:
    with hostile(server=False) as peer:
        assert peer.io.write([NO_WRITES] * 300) == 256
        peer.to_server.tail = 257
        assert peer.io.write([NO_WRITES]) == 0
        assert peer.io.port.fault == "the peer moved a ring index by more than the ring has"


def test_a_chain_without_an_end_is_dropped_up_to_what_was_published() -> None:
    with hostile(server=True) as peer:
        offer(peer, 2)
        offer(peer, 5, flags=NEXT)
        assert len(peer.io.read()) == 2
        assert peer.drops == {"bad_chain": 1}
        assert peer.to_server.tail == 7
        offer(peer, 1)
        assert len(peer.io.read()) == 1


def test_a_chain_all_around_the_ring_is_dropped() -> None:
    with hostile(server=True) as peer:
        offer(peer, 256, flags=NEXT)
        assert peer.io.read() == []
        assert peer.drops == {"bad_chain": 1}
        assert peer.to_server.tail == 256


def test_chains_of_64_slots_pass_and_longer_ones_do_not() -> None:
    with hostile(server=True) as peer:
        for length in (64, 65, 64):
            offer(peer, length - 1, flags=NEXT)
            offer(peer, 1)
        assert [len(frame) for frame in peer.io.read()] == [64 * 60, 64 * 60]
        assert peer.drops == {"bad_chain": 1}


def test_many_long_chains_at_once() -> None:
    with hostile(server=True, log2=12) as peer:
        for _ in range(64):
            offer(peer, 59, flags=NEXT)
            offer(peer, 1)
        assert [len(frame) for frame in peer.io.read(1000)] == [3600] * 64
        assert peer.drops == {}


def test_a_frame_longer_than_any_is_dropped() -> None:
    with hostile(server=True) as peer:
        offer(peer, 40, flags=NEXT, length=2048)
        offer(peer, 1)
        offer(peer, 1, length=65551)
        offer(peer, 1)
        assert len(peer.io.read()) == 1
        assert peer.drops == {"too_big": 2}


def test_runts_are_dropped() -> None:
    with hostile(server=True) as peer:
        offer(peer, 1, length=13)
        offer(peer, 1, length=14)
        assert [len(frame) for frame in peer.io.read()] == [14]
        assert peer.drops == {"runt": 1}


def test_a_next_flag_left_behind_does_not_glue_later_frames() -> None:
    """DPDK 22.11 leaves NEXT in a chain's first slot; whoever reuses the slot must find it cleared."""
    with hostile(server=True) as peer:
        for _ in range(3 * 256):
            ring = peer.to_server
            flags, *_ = ring.read(ring.head)
            assert flags == 0
            offer(peer, 1, flags=NEXT)
            offer(peer, 1)
            assert [len(frame) for frame in peer.io.read()] == [120]
            ring.write(ring.head, flags=ring.read(ring.head)[0], length=60, offset=peer.layout.to_server_buffers)
            ring.head += 1
            assert [len(frame) for frame in peer.io.read()] == [60]


BAD_BUFFERS = {
    "no-such-region": {"region": 7},
    "behind-the-region": {"offset": 0xFFFFFF00},
    "longer-than-the-region": {"length": 0xFFFFFFFF},
    "no-length": {"length": 0},
}


@pytest.mark.parametrize("fields", BAD_BUFFERS.values(), ids=BAD_BUFFERS)
def test_nothing_is_written_outside_what_the_peer_lent(fields: dict[str, int]) -> None:
    with hostile(server=True) as peer:
        peer.to_client.write(0, **({"length": 2048, "offset": peer.layout.to_client_buffers} | fields))
        peer.to_client.head = 1
        before = peer.memory[peer.layout.to_server_buffers :]
        peer.io.write([b"\xff" * 60])
        assert peer.io.port.fault == "the peer lent a buffer outside its memory"
        assert peer.memory[peer.layout.to_server_buffers :] == before


def test_a_long_frame_uses_the_buffers_as_they_were_lent() -> None:
    with hostile(server=True) as peer:
        at = peer.layout.to_client_buffers
        lent = [(100, at + 7), (1, at + 500), (900, at + 4000), (2048, at + 9000)]
        for index, (length, offset) in enumerate(lent):
            peer.to_client.write(index, length=length, offset=offset)
        peer.to_client.head = len(lent)
        frame = random.Random(4).randbytes(1500)
        assert peer.io.write([frame]) == 1
        got, index, flags = b"", 0, NEXT
        while flags & NEXT:
            flags, _, length, offset = peer.to_client.read(index)
            assert offset == lent[index][1]
            assert length <= lent[index][0]
            got += peer.memory[offset : offset + length]
            index += 1
        assert got == frame
        assert peer.to_client.tail == 4


def test_a_frame_longer_than_all_that_can_ever_be_lent_is_dropped() -> None:
    with hostile(server=True) as peer:
        for index in range(256):
            peer.to_client.write(index, length=10, offset=peer.layout.to_client_buffers)
        peer.to_client.head = 256
        assert peer.io.write([bytes(2561), bytes(2560)]) == 2
        assert peer.io.statistics()[1].drops == {"too_big": 1}
        assert peer.to_client.tail == 256


def test_our_own_buffers_are_where_we_put_them_whatever_the_peer_writes() -> None:
    """The descriptors of our memory can be overwritten; what counts is our own record."""
    with hostile(server=False) as peer:
        for slot in range(256):
            peer.to_server.write(slot, region=9, length=0xFFFFFFFF, offset=0xFFFFFFFF)
            peer.to_client.write(slot, region=9, length=60, offset=0xFFFFFFFF)
        frames = [bytes([n]) * 60 for n in range(200)]
        assert peer.io.write(frames) == 200
        for index, frame in enumerate(frames):
            flags, region, length, offset = peer.to_server.read(index)
            assert (flags, region, length) == (0, 0, 60)
            assert offset == peer.layout.to_server_buffers + index * 2048
            assert peer.memory[offset : offset + 60] == frame
        at = peer.layout.to_client_buffers
        peer.memory[at : at + 60] = b"\x55" * 60
        peer.to_client.tail = 1
        assert peer.io.read() == [b"\x55" * 60]
        assert peer.to_client.read(256) == (0, 0, 2048, at)


def test_a_server_cannot_claim_more_than_a_buffer_has() -> None:
    with hostile(server=False) as peer:
        for slot, length in enumerate((2048, 2049, 0, 0xFFFFFFFF, 60)):
            peer.to_client.write(slot, length=length, offset=0)
        peer.to_client.tail = 5
        assert [len(frame) for frame in peer.io.read()] == [2048, 60]
        assert peer.drops == {"bad_descriptor": 3}


def test_memory_that_shrinks_kills_the_port_and_nothing_else() -> None:
    with hostile(server=True, seal=False) as peer:
        offer(peer, 2)
        assert len(peer.io.read()) == 2
        offer(peer, 1)
        os.ftruncate(peer.shared.regions[0].fd, 0)
        peer.io.read()
        assert peer.io.read() == []
        assert peer.io.port.fault == "the peer truncated its memory"
        assert peer.io.write([NO_WRITES]) == 1
        os.ftruncate(peer.shared.regions[0].fd, peer.layout.size)  # for the test's own mapping


@pytest.mark.parametrize("keep", [4096, 9000])
def test_buffers_that_vanish_while_the_rings_stay_kill_the_port(keep: int) -> None:
    for server in (True, False):
        with hostile(server=server, seal=False) as peer:
            if server:
                offer(peer, 64, offset=peer.layout.to_client_buffers)
            else:
                peer.to_client.tail = 64
            os.ftruncate(peer.shared.regions[0].fd, keep)
            peer.io.read()
            peer.io.write([bytes(2000)] * 200)
            peer.io.read()
            assert peer.io.port.fault == "the peer truncated its memory"
            os.ftruncate(peer.shared.regions[0].fd, peer.layout.size)


BAD_RINGS = [
    (1, 0, 8, "region"),
    (0, 8, 8, "2\\^8"),
    (0, 1 << 40, 8, "2\\^8"),
    (0, 0, 15, "2\\^15"),
    (0, 0, 0, "2\\^0"),
    (0, 64, 8, "cookie"),
]


@pytest.mark.parametrize(("region", "offset", "log2", "told"), BAD_RINGS)
def test_a_ring_that_is_none_is_refused(region: int, offset: int, log2: int, told: str) -> None:
    with hostile(server=True) as peer:
        memory = peer.shared.regions[0]
        good = (0, peer.layout.to_client_ring, 8, -1)
        with pytest.raises(RemoteProtocolError, match=told):
            MemifSession(
                server=True,
                regions=[(memory.fd, memory.size)],
                to_server=(region, offset, log2, -1),
                to_client=good,
            )


words = st.one_of(st.integers(0, 0xFFFF), st.integers(0, 3))
lengths = st.one_of(st.integers(0, 3000), st.integers(0, 0xFFFFFFFF))
descriptors = st.tuples(words, words, lengths, lengths)


@settings(max_examples=300, deadline=None)
@given(
    server=st.booleans(),
    steps=st.lists(
        st.tuples(st.sampled_from(["head", "tail"]), st.integers(0, 300), st.lists(descriptors, max_size=20)),
        max_size=12,
    ),
)
def test_whatever_a_peer_writes_the_counts_balance_and_no_byte_comes_from_elsewhere(
    server: bool, steps: list[tuple[str, int, list[tuple[int, int, int, int]]]]
) -> None:
    with hostile(server=server) as peer:
        for which, move, slots in steps:
            for ring in (peer.to_server, peer.to_client):
                for at, (flags, region, length, offset) in enumerate(slots):
                    index = getattr(ring, which) + at
                    ring.write(index, flags=flags, region=region, length=length, offset=offset)
                setattr(ring, which, getattr(ring, which) + move)
            frames = peer.io.read(300)
            peer.io.write([b"\xab" * 100] * 70)
            assert all(0 < len(frame) <= 65550 for frame in frames)
        received, sent = peer.io.statistics()
        assert received.in_frames == received.out_frames + received.dropped_frames
        assert sent.in_frames == sent.out_frames + sent.dropped_frames
