"""Invariant: whatever bytes and descriptors a peer sends, a control channel's machine ends at most once,
raises nothing, and every descriptor is closed or handed over exactly once.

`corpus/memif` keeps conversations, a client's or a server's messages one after the other, 128 bytes
each; a number of descriptors goes with each as the protocol says. Their names say what they try.
"""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.dataplane.memif_control import (
    Disconnected,
    Interface,
    MemifClient,
    MemifServer,
    Memory,
    MemoryOffered,
    MemoryWanted,
    Region,
    Ring,
    State,
)
from forwarder.dataplane.memif_messages import printable
from forwarder.dataplane.spec import Mode

CORPUS = sorted((Path(__file__).parent / "corpus" / "memif").glob("*.bin"))
INTERFACE = Interface(interface_id=0, mode=Mode.ETHERNET, name="fuzz")
MEMORY = Memory(
    regions=(Region(index=0, size=40000, fd=-1),),
    rings=tuple(
        Ring(to_server=to_server, index=0, region=0, offset=offset, log2_ring_size=10, fd=-1)
        for to_server, offset in ((True, 0), (False, 16512))
    ),
)


class Peer:
    """Drives one machine and checks the invariant."""

    def __init__(self, server: bool) -> None:
        self.closed: list[int] = []
        self.handed_over: set[int] = set()
        self.given_out = 0
        self.ends = 0
        self.accepted = False
        if server:
            found = {0: INTERFACE}
            self.end = MemifServer(found.get, now=0.0, close=self.closed.append)
        else:
            self.end = MemifClient(INTERFACE, now=0.0, close=self.closed.append)

    def feed(self, data: bytes, fds: int, truncated: bool = False) -> None:
        numbers = tuple(range(self.given_out, self.given_out + fds))
        self.given_out += fds
        self.end.receive(data, numbers, truncated=truncated)
        self.drain()

    def drain(self) -> None:
        while (event := self.end.next_event()) is not None:
            match event:
                case MemoryOffered():
                    self.handed_over |= set(event.memory.fds)
                    self.end.accept()
                    self.accepted = True
                case MemoryWanted():
                    assert event.to_server_rings == event.to_client_rings == 1
                    assert 1 <= event.log2_ring_size <= 10
                    self.end.offer(MEMORY)
                case Disconnected():
                    self.ends += 1
                    assert event.reason
                    assert event.reason.isascii()
                    assert event.reason.isprintable()
        for message in self.end.messages_to_send():
            assert len(message.data) == 128

    def finish(self) -> None:
        self.end.receive(b"", ())
        self.drain()
        assert self.end.state is State.CLOSED
        assert self.ends == 1
        assert len(self.closed) == len(set(self.closed))
        assert set(self.closed) | self.handed_over == set(range(self.given_out))
        assert not set(self.closed) & self.handed_over


def words(*values: int) -> st.SearchStrategy[int]:
    return st.sampled_from(values) | st.integers(0, 0xFFFF)


def little(strategy: st.SearchStrategy[int], size: int) -> st.SearchStrategy[bytes]:
    return strategy.map(lambda value: (value % (1 << 8 * size)).to_bytes(size, "little"))


def message(kind: int, *fields: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    head = st.just(kind.to_bytes(2, "little"))
    return st.tuples(head, *fields).map(b"".join).map(lambda data: data.ljust(128, b"\0"))


ANY_TEXT = st.binary(max_size=32).map(lambda text: text.ljust(32, b"\0"))
OFFSETS = st.sampled_from([0, 8, 16, 16512, 33024, 2**16, 2**31, 2**32 - 16, 2**32 - 1]) | st.integers(0, 2**32 - 1)
SIZES = st.sampled_from([0, 1, 16512, 33024, 40000, 2**30, 2**30 + 1, 2**32, 2**63, 2**64 - 1])

MESSAGES = st.one_of(
    message(1),
    message(2, ANY_TEXT, *[little(words(0x0200, 0, 0xFFFF), 2)] * 5, little(words(0, 1, 14, 255), 1)),
    message(3, little(words(0x0200), 2), little(words(0, 1), 4), little(words(0, 1, 2), 1), ANY_TEXT),
    message(3, st.just(b"\x00\x02" + bytes(5))),
    message(4, little(words(0, 1, 15, 16), 2), little(SIZES, 8)),
    message(
        5,
        little(words(0, 1), 2),
        little(words(0, 1), 2),
        little(words(0, 1, 15), 2),
        little(OFFSETS, 4),
        little(words(0, 1, 10, 14, 15, 64), 1),
        little(st.just(0) | words(1), 2),
    ),
    message(6, ANY_TEXT),
    message(7, ANY_TEXT),
    message(8, little(words(0), 4), ANY_TEXT),
    st.binary(max_size=140),
)

HONEST_CLIENT = [
    b"\x03\x00\x00\x02".ljust(128, b"\0"),
    b"\x04\x00\x00\x00\x40\x9c".ljust(128, b"\0"),
    b"\x05\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0a".ljust(128, b"\0"),
    b"\x05\x00\x00\x00\x00\x00\x00\x00\x80\x40\x00\x00\x0a".ljust(128, b"\0"),
    b"\x06\x00peer".ljust(128, b"\0"),
]
HONEST_SERVER = [
    (b"\x02\x00peer".ljust(34, b"\0") + b"\x00\x02\x00\x02" + b"\xff\x00" * 3 + b"\x0e").ljust(128, b"\0"),
    *[b"\x01\x00".ljust(128, b"\0")] * 4,
    b"\x07\x00peer".ljust(128, b"\0"),
]


def due(data: bytes) -> int:
    """Returns how many descriptors the protocol wants with a message."""
    return int(data[:2] in (b"\x04\x00", b"\x05\x00"))


@pytest.mark.parametrize(("server", "messages"), [(True, HONEST_CLIENT), (False, HONEST_SERVER)])
def test_what_is_fuzzed_starts_from_what_works(server: bool, messages: list[bytes]) -> None:
    peer = Peer(server)
    for data in messages:
        peer.feed(data, due(data))
    assert peer.end.state is State.CONNECTED
    peer.finish()


@given(st.booleans(), st.integers(0, 6), st.lists(st.tuples(MESSAGES, st.integers(-1, 3), st.booleans()), max_size=10))
def test_any_conversation_ends_cleanly(server: bool, honest: int, script: list[tuple[bytes, int, bool]]) -> None:
    peer = Peer(server)
    for data in (HONEST_CLIENT if server else HONEST_SERVER)[:honest]:
        peer.feed(data, due(data))
    for data, fds, truncated in script:
        peer.feed(data, due(data) if fds < 0 else fds, truncated and fds > 1)
    peer.finish()


@given(st.booleans(), st.data())
def test_a_changed_byte_anywhere_ends_cleanly(server: bool, data: st.DataObject) -> None:
    honest = HONEST_CLIENT if server else HONEST_SERVER
    where = data.draw(st.integers(0, len(honest) - 1))
    at = data.draw(st.integers(0, 20) | st.integers(0, 127))
    changed = bytearray(honest[where])
    changed[at] = data.draw(st.integers(0, 255))
    peer = Peer(server)
    for number, message_bytes in enumerate(honest):
        peer.feed(bytes(changed) if number == where else message_bytes, due(message_bytes))
    peer.finish()


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_conversations_of_the_corpus_are_refused(path: Path) -> None:
    data = path.read_bytes()
    for server in (True, False):
        peer = Peer(server)
        for at in range(0, len(data), 128):
            peer.feed(data[at : at + 128], due(data[at : at + 2]))
        assert not peer.accepted
        assert peer.end.state is not State.CONNECTED
        peer.finish()


@given(st.binary(max_size=200))
def test_names_are_safe_to_show(name: bytes) -> None:
    shown = printable(name)
    assert shown.isascii()
    assert shown.isprintable() or not shown
