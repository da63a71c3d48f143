"""memif's control channel: two ends in memory, and a peer that breaks every rule."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.dataplane.memif_control import (
    CLIENT_TRANSITIONS,
    SERVER_TRANSITIONS,
    Disconnected,
    Established,
    Interface,
    InterfaceChosen,
    Limits,
    MemifClient,
    MemifServer,
    Memory,
    MemoryOffered,
    MemoryWanted,
    Region,
    RegionAdded,
    Ring,
    RingAdded,
    State,
)
from forwarder.dataplane.memif_messages import (
    Ack,
    AddRegion,
    AddRing,
    Connect,
    Connected,
    Disconnect,
    Hello,
    Init,
    MessageType,
    decode,
    encode,
)
from forwarder.dataplane.spec import Mode
from forwarder.errors import LocalProtocolError

LAN = Interface(interface_id=7, mode=Mode.ETHERNET, secret=b"hush", name="lan")
DEFAULTS = Limits()
OPEN = Interface(interface_id=0, mode=Mode.IP, name="open")
SECRET = b"hush".ljust(24, b"\0")
MEMORY = Memory(
    regions=(Region(index=0, size=40000, fd=100),),
    rings=(
        Ring(to_server=True, index=0, region=0, offset=0, log2_ring_size=10, fd=101),
        Ring(to_server=False, index=0, region=0, offset=16512, log2_ring_size=10, fd=102),
    ),
)


class Closed(list):
    """Records what a machine closes; one descriptor must not be closed twice."""

    def __call__(self, fd):
        assert fd not in self
        self.append(fd)


def events(end):
    found = []
    while (event := end.next_event()) is not None:
        found.append(event)
    return found


def sent(end):
    return [decode(outgoing.data) for outgoing in end.messages_to_send()]


def server(closed=None, limits=DEFAULTS):
    interfaces = {7: LAN, 0: OPEN}
    return MemifServer(interfaces.get, now=0.0, limits=limits, close=closed if closed is not None else Closed())


def feed(end, message, *fds):
    end.receive(encode(message), fds)


def init(**changes):
    values = {"interface_id": 7, "mode": 0, "secret": SECRET, "name": b"peer"}
    return Init(**{**values, **changes})


def add_ring(**changes):
    values = {"to_server": True, "index": 0, "region": 0, "offset": 0, "log2_ring_size": 10}
    return AddRing(**{**values, **changes})


def admitted(closed=None, limits=DEFAULTS):
    end = server(closed, limits)
    feed(end, init())
    sent(end)
    events(end)
    return end


def with_region(closed=None, limits=DEFAULTS, size=40000):
    end = admitted(closed, limits)
    feed(end, AddRegion(index=0, size=size), 100)
    sent(end)
    events(end)
    return end


def complete(closed=None):
    end = with_region(closed)
    feed(end, add_ring(), 101)
    feed(end, add_ring(to_server=False, offset=16512), 102)
    feed(end, Connect(interface=b"peer0"))
    return end


def ended_by_us(end):
    """Asserts that `end` disconnected, said why, and did nothing else; returns why."""
    found = events(end)
    assert isinstance(found[-1], Disconnected)
    assert not found[-1].by_peer
    messages = sent(end)
    assert [type(message) for message in messages] == [Disconnect]
    assert messages[0].reason == found[-1].reason.encode()[:95]
    assert end.state is State.CLOSED
    assert end.deadline is None
    return found[-1].reason


def converse(client, server, memory):
    """Carries messages both ways until nothing moves; returns what each end saw."""
    seen = {client: [], server: []}
    moved = True
    while moved:
        moved = False
        for end, other in ((client, server), (server, client)):
            for event in events(end):
                seen[end].append(event)
                if isinstance(event, MemoryWanted):
                    end.offer(memory)
                if isinstance(event, MemoryOffered):
                    end.accept()
            for outgoing in end.messages_to_send():
                moved = True
                other.receive(outgoing.data, outgoing.fds)
    return seen[client], seen[server]


def test_client_and_server_connect_in_lock_step():
    ours, theirs = MemifClient(LAN, now=0.0), server()
    client_saw, server_saw = converse(ours, theirs, MEMORY)
    assert ours.state is theirs.state is State.CONNECTED
    assert ours.deadline is theirs.deadline is None
    assert client_saw == [
        MemoryWanted(to_server_rings=1, to_client_rings=1, log2_ring_size=10, peer="vwire"),
        Established(peer_interface="lan"),
    ]
    assert server_saw == [
        InterfaceChosen(interface=LAN, peer="vwire"),
        RegionAdded(region=MEMORY.regions[0]),
        RingAdded(ring=MEMORY.rings[0]),
        RingAdded(ring=MEMORY.rings[1]),
        MemoryOffered(memory=MEMORY, peer_interface="lan"),
        Established(peer_interface="lan"),
    ]


def test_server_takes_a_whole_handshake_at_once():
    closed = Closed()
    end = server(closed)
    feed(end, init())
    feed(end, AddRegion(index=0, size=40000), 100)
    feed(end, add_ring(), 101)
    feed(end, add_ring(to_server=False, offset=16512), 102)
    feed(end, Connect(interface=b"peer0"))
    assert [type(message) for message in sent(end)] == [Hello, Ack, Ack, Ack, Ack]
    assert events(end)[-1] == MemoryOffered(memory=MEMORY, peer_interface="peer0")
    end.accept()
    assert sent(end) == [Connected(interface=b"lan")]
    assert closed == []


def test_server_says_hello_first_with_its_limits():
    end = server(limits=Limits(rings=4, regions=3, log2_ring_size=12))
    assert sent(end) == [
        Hello(name=b"vwire", max_region=2, max_to_client_ring=3, max_to_server_ring=3, max_log2_ring_size=12)
    ]


@pytest.mark.parametrize("interface_id", [0, 7])
def test_server_finds_the_interface_by_its_id(interface_id):
    end = server()
    mode = 1 if interface_id == 0 else 0
    feed(end, init(interface_id=interface_id, mode=mode, secret=SECRET if interface_id else b"any".ljust(24)))
    assert events(end)[0].interface.interface_id == interface_id


@pytest.mark.parametrize(
    "message",
    [
        init(version=0x0100),
        init(version=0x0300),
        init(mode=1),
        init(mode=2),
        init(secret=bytes(24)),
        init(secret=b"hush".ljust(23, b"\0") + b"x"),
        init(interface_id=8),
    ],
    ids=["old", "new", "ip", "punt", "no secret", "byte behind the secret", "id"],
)
def test_server_refuses_an_init_that_does_not_fit(message):
    end = server()
    feed(end, message)
    ended_by_us(end)


def test_unknown_id_and_wrong_secret_get_the_same_answer():
    unknown, wrong = server(), server()
    feed(unknown, init(interface_id=8))
    feed(wrong, init(secret=b"guess".ljust(24, b"\0")))
    assert ended_by_us(unknown).replace("8", "7") == ended_by_us(wrong)


MESSAGES = {
    MessageType.ACK: Ack(),
    MessageType.HELLO: Hello(name=b"", max_region=1, max_to_client_ring=1, max_to_server_ring=1, max_log2_ring_size=14),
    MessageType.INIT: init(),
    MessageType.ADD_REGION: AddRegion(index=0, size=40000),
    MessageType.ADD_RING: add_ring(),
    MessageType.CONNECT: Connect(interface=b""),
    MessageType.CONNECTED: Connected(interface=b""),
}
SERVER_STATES = {
    State.AWAIT_INIT: server,
    State.AWAIT_MEMORY: admitted,
    State.AWAIT_ACCEPT: complete,
    State.CONNECTED: lambda closed: accepted(complete(closed)),
}


def accepted(end):
    events(end)
    end.accept()
    return end


@pytest.mark.parametrize("state", SERVER_STATES)
@pytest.mark.parametrize("kind", MESSAGES)
def test_server_refuses_what_the_table_does_not_have(state, kind):
    closed = Closed()
    end = SERVER_STATES[state](closed)
    assert end.state is state
    sent(end)
    fds = (200,) if kind in (MessageType.ADD_REGION, MessageType.ADD_RING) else ()
    feed(end, MESSAGES[kind], *fds)
    if (state, kind) in SERVER_TRANSITIONS and kind not in (MessageType.ADD_RING, MessageType.CONNECT):
        assert end.state is SERVER_TRANSITIONS[state, kind]
    else:
        ended_by_us(end)
        expected = {200} if fds else set()
        if state is State.AWAIT_ACCEPT:
            expected |= {100, 101, 102}
        assert set(closed) == expected


def client_in(state, closed=None):
    end = MemifClient(LAN, now=0.0, close=closed if closed is not None else Closed())
    hello = MESSAGES[MessageType.HELLO]
    steps = [
        (State.AWAIT_HELLO, lambda: feed(end, hello)),
        (State.AWAIT_ADMISSION, lambda: feed(end, Ack())),
        (State.AWAIT_OFFER, lambda: end.offer(MEMORY)),
        (State.AWAIT_ACK, lambda: [feed(end, Ack()) for _ in range(3)]),
        (State.AWAIT_CONNECTED, lambda: feed(end, Connected(interface=b""))),
        (State.CONNECTED, lambda: None),
    ]
    for before, step in steps:
        assert end.state is before
        if before is state:
            break
        step()
    sent(end)
    return end


@pytest.mark.parametrize(
    "state",
    [
        State.AWAIT_HELLO,
        State.AWAIT_ADMISSION,
        State.AWAIT_OFFER,
        State.AWAIT_ACK,
        State.AWAIT_CONNECTED,
        State.CONNECTED,
    ],
)
@pytest.mark.parametrize("kind", MESSAGES)
def test_client_refuses_what_the_table_does_not_have(state, kind):
    closed = Closed()
    end = client_in(state, closed)
    fds = (200,) if kind in (MessageType.ADD_REGION, MessageType.ADD_RING) else ()
    feed(end, MESSAGES[kind], *fds)
    if (state, kind) in CLIENT_TRANSITIONS:
        assert end.state is CLIENT_TRANSITIONS[state, kind]
    else:
        ended_by_us(end)
    assert set(closed) == set(fds)


def test_client_sends_one_message_per_ack_and_connect_last():
    end = client_in(State.AWAIT_OFFER)
    end.offer(MEMORY)
    order = []
    for _ in range(4):
        (outgoing,) = end.messages_to_send()
        order.append((type(decode(outgoing.data)), outgoing.fds))
        if end.state is State.AWAIT_ACK:
            feed(end, Ack())
    assert order == [(AddRegion, (100,)), (AddRing, (101,)), (AddRing, (102,)), (Connect, ())]


def test_an_ack_that_answers_nothing_is_refused():
    end = client_in(State.AWAIT_CONNECTED)
    feed(end, Ack())
    assert "ACK" in ended_by_us(end)


@pytest.mark.parametrize(
    ("own", "theirs", "expected"),
    [((1, 10), (0, 0, 14), (1, 1, 10)), ((4, 14), (1, 2, 8), (2, 3, 8)), ((4, 8), (255, 255, 14), (4, 4, 8))],
)
def test_client_asks_for_no_more_rings_and_slots_than_the_server_takes(own, theirs, expected):
    end = MemifClient(LAN, now=0.0, rings=own[0], log2_ring_size=own[1])
    to_server, to_client, log2 = theirs
    feed(
        end,
        Hello(
            name=b"",
            max_region=1,
            max_to_server_ring=to_server,
            max_to_client_ring=to_client,
            max_log2_ring_size=log2,
        ),
    )
    feed(end, Ack())
    (wanted,) = events(end)
    assert (wanted.to_server_rings, wanted.to_client_rings, wanted.log2_ring_size) == expected


@pytest.mark.parametrize(("low", "high"), [(0x0100, 0x0100), (0x0300, 0x0400), (0x0201, 0x01FF)])
def test_client_refuses_a_server_of_another_version(low, high):
    end = MemifClient(LAN, now=0.0)
    feed(end, dataclasses.replace(MESSAGES[MessageType.HELLO], min_version=low, max_version=high))
    ended_by_us(end)


def test_client_sends_id_mode_and_padded_secret():
    end = MemifClient(LAN, now=0.0, name="app")
    feed(end, MESSAGES[MessageType.HELLO])
    assert sent(end) == [init(name=b"app")]


@pytest.mark.parametrize(
    "message",
    [
        AddRegion(index=1, size=4096),
        AddRegion(index=0, size=0),
        AddRegion(index=0, size=(1 << 30) + 1),
        AddRegion(index=0, size=2**64 - 1),
    ],
    ids=["index skipped", "empty", "over the cap", "2^64-1"],
)
def test_server_refuses_a_region_out_of_bounds(message):
    closed = Closed()
    end = admitted(closed)
    feed(end, message, 100)
    ended_by_us(end)
    assert closed == [100]


def test_server_caps_the_number_and_the_sum_of_regions():
    many = admitted(limits=Limits(regions=2))
    for index in range(3):
        feed(many, AddRegion(index=index, size=1), 100 + index)
    assert "more than 2 regions" in ended_by_us(many)
    big = admitted(limits=Limits(total_bytes=100))
    feed(big, AddRegion(index=0, size=60), 100)
    feed(big, AddRegion(index=1, size=41), 101)
    assert "101 bytes" in ended_by_us(big)


def test_a_region_index_cannot_be_given_twice():
    end = with_region()
    feed(end, AddRegion(index=0, size=40000), 103)
    ended_by_us(end)


@pytest.mark.parametrize(
    "message",
    [
        add_ring(index=1),
        add_ring(region=1),
        add_ring(region=0xFFFF),
        add_ring(offset=8),
        add_ring(offset=40000 - 16512 + 16),
        add_ring(offset=0xFFFFFFF0),
        add_ring(log2_ring_size=0),
        add_ring(log2_ring_size=15),
        add_ring(log2_ring_size=255),
        add_ring(log2_ring_size=12),
        add_ring(private_hdr_size=1),
    ],
    ids=[
        "index",
        "next region",
        "region",
        "misaligned",
        "one line too far",
        "offset near 2^32",
        "no slots",
        "2^15 slots",
        "2^255 slots",
        "too long",
        "private header",
    ],
)
def test_server_refuses_a_ring_out_of_bounds(message):
    closed = Closed()
    end = with_region(closed)
    feed(end, message, 101)
    ended_by_us(end)
    assert set(closed) == {100, 101}


def test_a_ring_may_end_where_its_region_ends():
    end = with_region(size=16512)
    feed(end, add_ring(), 101)
    assert end.state is State.AWAIT_MEMORY


@pytest.mark.parametrize("offset", [0, 16, 16496])
def test_rings_may_not_overlap(offset):
    end = with_region()
    feed(end, add_ring(), 101)
    feed(end, add_ring(to_server=False, offset=offset), 102)
    assert "overlaps" in ended_by_us(end)


def test_more_rings_than_announced_are_refused():
    end = with_region()
    feed(end, add_ring(log2_ring_size=1), 101)
    feed(end, add_ring(log2_ring_size=1, index=1, offset=1024), 102)
    ended_by_us(end)


@pytest.mark.parametrize("rings", [[], [True], [False]])
def test_connect_needs_a_ring_in_each_direction(rings):
    closed = Closed()
    end = with_region(closed)
    for fd, to_server in enumerate(rings, 101):
        feed(end, add_ring(to_server=to_server), fd)
    feed(end, Connect(interface=b""))
    ended_by_us(end)
    assert set(closed) == {100, *range(101, 101 + len(rings))}


@pytest.mark.parametrize("fds", [(), (100, 101), (100, 101, 102)])
def test_a_region_comes_with_exactly_one_descriptor(fds):
    closed = Closed()
    end = admitted(closed)
    feed(end, AddRegion(index=0, size=40000), *fds)
    ended_by_us(end)
    assert set(closed) == set(fds)


def test_descriptors_that_come_with_other_messages_are_refused_and_closed():
    closed = Closed()
    end = server(closed)
    feed(end, init(), 100)
    ended_by_us(end)
    assert closed == [100]


def test_descriptor_number_zero_is_a_descriptor():
    end = admitted()
    feed(end, AddRegion(index=0, size=40000), 0)
    assert events(end) == [RegionAdded(region=Region(index=0, size=40000, fd=0))]


def test_truncated_messages_end_the_connection_and_leave_no_descriptor():
    closed = Closed()
    end = admitted(closed)
    end.receive(encode(AddRegion(index=0, size=1)), (100,), truncated=True)
    ended_by_us(end)
    assert closed == [100]


@pytest.mark.parametrize("end_it", [lambda end: end.receive(b"", ()), lambda end: end.lost("connection reset")])
def test_the_end_of_the_stream_needs_no_answer(end_it):
    closed = Closed()
    end = with_region(closed)
    end_it(end)
    (event,) = events(end)
    assert event.by_peer
    assert sent(end) == []
    assert closed == [100]


def test_a_peers_disconnect_shows_its_reason_escaped():
    end = admitted()
    feed(end, Disconnect(code=1, reason=b"bad\x1b"))
    assert events(end) == [Disconnected(reason=r"bad\x1b", by_peer=True)]
    assert sent(end) == []


def test_a_refusal_replaces_the_answer():
    end = server()
    sent(end)
    feed(end, init())
    assert isinstance(events(end)[0], InterfaceChosen)
    end.disconnect("already connected")
    assert ended_by_us(end) == "already connected"


def test_memory_that_was_handed_over_is_not_closed_by_the_machine():
    closed = Closed()
    end = complete(closed)
    assert isinstance(events(end)[-1], MemoryOffered)
    end.disconnect("no")
    assert closed == []


def test_memory_that_nobody_took_is_closed():
    closed = Closed()
    end = complete(closed)
    end.receive(b"", ())
    assert [type(event) for event in events(end)] == [RingAdded, RingAdded, Disconnected]
    assert set(closed) == {100, 101, 102}


def test_the_handshake_has_a_deadline():
    for end in (server(), MemifClient(LAN, now=0.0)):
        sent(end)
        assert end.deadline == 5.0
        end.handle_timer(4.999)
        assert end.state is not State.CLOSED
        end.handle_timer(5.0)
        assert "5 s" in ended_by_us(end)


def test_after_the_end_nothing_is_said_and_nothing_kept():
    closed = Closed()
    end = admitted(closed)
    end.disconnect("enough")
    sent(end)
    events(end)
    feed(end, AddRegion(index=0, size=1), 100)
    end.disconnect("again")
    end.lost("reset")
    end.handle_timer(99.0)
    assert closed == [100]
    assert sent(end) == []
    assert events(end) == []


def test_our_own_verbs_out_of_turn_are_our_own_mistake():
    with pytest.raises(LocalProtocolError):
        server().accept()
    with pytest.raises(LocalProtocolError):
        MemifClient(LAN, now=0.0).offer(MEMORY)


any_message = st.sampled_from(
    [encode(message) for message in MESSAGES.values()]
    + [encode(add_ring(to_server=False, offset=16512)), encode(Disconnect(reason=b"x"))]
) | st.binary(min_size=1, max_size=140)


@given(st.booleans(), st.lists(st.tuples(any_message, st.integers(0, 3)), max_size=12))
def test_whatever_comes_no_descriptor_is_lost_or_closed_twice(as_server, script):
    closed = Closed()
    end = server(closed) if as_server else MemifClient(LAN, now=0.0, close=closed)
    given_out, handed_over, ends = 0, set(), 0
    for data, count in script:
        end.receive(data, tuple(range(given_out, given_out + count)))
        given_out += count
        for event in events(end):
            if isinstance(event, MemoryOffered):
                handed_over |= set(event.memory.fds)
                end.accept()
            if isinstance(event, MemoryWanted):
                end.offer(MEMORY)
            ends += isinstance(event, Disconnected)
    end.disconnect("done")
    ends += sum(isinstance(event, Disconnected) for event in events(end))
    assert ends == 1
    assert set(closed) | handed_over == set(range(given_out))
    assert not set(closed) & handed_over
