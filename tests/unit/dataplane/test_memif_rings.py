"""memif's rings between our own two ends: every size, both roles, around the indices' end."""

import random

import pytest

from tests.support.memif_rings import both_ends

BURST = 128
SIZES = range(8, 15)


def carry(sender, receiver, frames, burst):
    """Sends as many as there is room for, at most `burst` at once; returns what was received."""
    arrived = []
    sent = 0
    while len(arrived) < len(frames):
        sent += sender.write(frames[sent : sent + burst])
        arrived += receiver.read(burst)
    return arrived


@pytest.mark.parametrize("log2", SIZES)
def test_indices_run_through_65536_and_on(log2: int) -> None:
    frames = [n.to_bytes(4, "big") * 15 for n in range(70_000)]
    with both_ends(log2) as (server, client):
        assert carry(client, server, frames, 1 << log2) == frames
        assert carry(server, client, frames, 1 << log2) == frames
        for io in (server, client):
            received, sent = io.statistics()
            assert received.in_frames == sent.out_frames == len(frames)
            assert not received.drops
            assert not sent.drops


@pytest.mark.parametrize("log2", SIZES)
def test_a_ring_takes_exactly_as_many_frames_as_it_has_slots(log2: int) -> None:
    size = 1 << log2
    with both_ends(log2) as (server, client):
        for sender, receiver in ((server, client), (client, server)):
            for _ in range(3):
                assert sender.write([bytes(60)] * (size + 7)) == size
                assert sender.write([bytes(60)]) == 0
                assert receiver.read(1) == [bytes(60)] * BURST
                assert sender.write([bytes(60)] * size) == BURST
                assert receiver.read(2 * size) == [bytes(60)] * size


def test_every_length_up_to_several_slots_arrives_unchanged() -> None:
    noise = random.Random(1).randbytes(5000)
    frames = [noise[:n] for n in (*range(14, 700), *range(1400, 1530), *range(2040, 2060), *range(4090, 4102), 5000)]
    with both_ends(8) as (server, client):
        assert carry(client, server, frames, 40) == frames
        assert carry(server, client, frames, 40) == frames


@pytest.mark.parametrize("buffer_bytes", [2048, 2176, 9216, 65535])
def test_chains_of_every_kind_of_slot(buffer_bytes: int) -> None:
    made = random.Random(2)
    frames = [made.randbytes(made.randint(14, 65550)) for _ in range(300)]
    with both_ends(8, buffer_bytes) as (server, client):
        assert carry(client, server, frames, 5) == frames
        assert carry(server, client, frames, 5) == frames


def test_a_chain_that_does_not_fit_now_waits_whole() -> None:
    long = bytes(range(256)) * 200  # 25 slots
    with both_ends(8) as (server, client):
        for sender, receiver in ((server, client), (client, server)):
            assert sender.write([long] * 11) == 10
            assert sender.write([bytes(60)] * 10) == 6
            assert receiver.read(1000) == [long] * 10 + [bytes(60)] * 6
            assert sender.write([long]) == 1
            assert receiver.read() == [long]


def test_a_long_frame_behind_short_ones_is_not_overtaken() -> None:
    made = random.Random(3)
    frames = [bytes([n % 251]) * made.choice([60, 64, 1500, 2048, 2049, 9000]) for n in range(3000)]
    with both_ends(9) as (server, client):
        assert carry(client, server, frames, 64) == frames
        assert carry(server, client, frames, 64) == frames


def test_bytes_behind_a_frame_stay_as_they_were() -> None:
    """A slot keeps nothing of the frame that was copied beyond its end, nor does the copy go beyond."""
    with both_ends(8) as (server, client):
        marked = [b"\xee" * 2048] * 256
        assert carry(client, server, marked, 256) == marked
        for n in range(14, 400):
            client.write([b"\x11" * n])
            assert server.read() == [b"\x11" * n]
