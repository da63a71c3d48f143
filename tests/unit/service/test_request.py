"""What a Request does step by step, with a next hop and a data plane that only remember."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
import pytest_asyncio

from forwarder.api.connection_pb2 import DELETE, DOWN, RESELECT_REQUESTED, UP, UPDATE, Connection, MonitorScopeSelector
from forwarder.api.context import Side
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.api.path import copy
from forwarder.errors import (
    DataplaneError,
    EndpointNotFound,
    ForwarderError,
    InvalidRequest,
    MechanismUnsupported,
    NetlinkError,
    NextHopError,
    RemoteProtocolError,
)
from forwarder.mechanisms import Datapath
from forwarder.rpc import Call
from forwarder.security import UnsignedTokens
from forwarder.security.metadata import TokenMetadata
from forwarder.service import ConfiguredNextHops, Forwarder, NextHops
from tests.support.cancellation import cancelled_at_wait
from tests.support.clock import TurnedClock, settle
from tests.support.connections import connection, hops, timestamp
from tests.support.fake_mechanism import World, asked
from tests.support.fake_next_hop import FakeNextHop

NEXT = "unix:///nse.sock"


class Scene:
    """A forwarder between a client and a next hop."""

    def __init__(
        self,
        direct: Callable[[World], Sequence[Datapath]] = lambda _: (),
        next_hops: NextHops | None = None,
        dial: Callable[[str], object] | None = None,
        **options: object,
    ) -> None:
        self.clock = TurnedClock()
        self.world = World()
        self.hop = FakeNextHop(self.clock.now() + 600)
        self.forwarder = Forwarder(
            name="fwd",
            mechanisms=self.world.mechanisms,
            vwires=self.world,
            next_hops=next_hops
            or ConfiguredNextHops(default=NEXT, by_service={"far": "tcp://10.0.0.1:5000", "other": "unix:///o"}),
            dial=dial or self.hop.dial,  # type: ignore[arg-type]
            clock=self.clock,
            mechanism_priority=["kernel"],
            default_payload="ETHERNET",
            direct=direct(self.world),
            **options,  # type: ignore[arg-type]
        )

    def first(self, *preferences: object, **fields: object) -> NetworkServiceRequest:
        given = connection("nsc:nsc-0", expires=self.clock.now() + 100, **{"network_service": "web", **fields})
        return NetworkServiceRequest(connection=given, mechanism_preferences=preferences or [asked("KERNEL")])

    async def request(self, request: NetworkServiceRequest | Connection, seconds: float | None = None) -> Connection:
        if isinstance(request, Connection):
            request = NetworkServiceRequest(connection=request)
        return await self.forwarder.request(request, Call.internal(timeout_s=seconds))

    async def close(self, given: Connection) -> None:
        await self.forwarder.close(given, Call.internal())

    def nothing_left(self) -> None:
        assert self.world.held == []
        assert self.hop.connections == {}
        assert self.forwarder._table._entries == {}
        assert self.forwarder._table._by_caller == {}
        assert self.forwarder._background._tasks == set()
        assert self.forwarder._monitor._known == {}
        assert self.clock.sleeping == 0

    async def events(self) -> "Events":
        events = Events(self)
        await events.start()
        return events


class Events:
    def __init__(self, scene: Scene) -> None:
        self._stream = scene.forwarder.monitor(MonitorScopeSelector(), Call.internal())

    async def start(self) -> None:
        await anext(self._stream)

    async def next(self) -> tuple[int, Connection]:
        event = await anext(self._stream)
        (found,) = event.connections.values()
        return event.type, found

    async def aclose(self) -> None:
        await self._stream.aclose()


@pytest_asyncio.fixture
async def scene() -> AsyncIterator[Scene]:
    made = Scene()
    async with made.forwarder:
        yield made
    await settle()
    made.nothing_left()


async def test_a_request_asks_the_next_hop_first_then_opens_endpoint_caller_and_vwire(scene: Scene) -> None:
    answer = await scene.request(scene.first())
    assert scene.world.taken() == [
        "open endpoint KERNEL/nse-1",
        "open client KERNEL/nsm-1",
        "join KERNEL/nsm-1 KERNEL/nse-1",
        "update endpoint KERNEL/nse-1 mtu 9000",
        "update client KERNEL/nsm-1 mtu 9000",
    ]
    assert answer.state == UP
    assert (answer.id, answer.path.index) == ("nsc-0", 0), "the caller's segment is current again"
    assert [hop.split(":")[0] for hop in hops(answer)] == ["nsc", "fwd", "nse"]
    assert answer.mechanism == asked("KERNEL"), "the caller's own mechanism is back"
    assert (answer.context.MTU, answer.payload, answer.network_service_endpoint_name) == (9000, "ETHERNET", "nse")


async def test_the_next_hop_gets_our_offer_and_our_view(scene: Scene) -> None:
    await scene.request(scene.first(asked("MEMIF"), labels={"app": "x"}))
    (sent,) = scene.hop.requests
    assert [(each.cls, each.type, dict(each.parameters)) for each in sent.mechanism_preferences] == [
        ("LOCAL", "KERNEL", {}),
        ("LOCAL", "MEMIF", {}),
    ], "in the configured priority; the caller's preferences are gone"
    assert not sent.connection.HasField("mechanism")
    assert sent.connection.path.index == 1
    assert sent.connection.id == sent.connection.path.path_segments[1].id
    assert sent.connection.context.MTU == 9000
    assert dict(sent.connection.labels) == {"app": "x"}


async def test_every_segment_of_the_answer_expires(scene: Scene) -> None:
    answer = await scene.request(scene.first())
    for segment in answer.path.path_segments:
        assert segment.HasField("expires"), segment.name
    assert answer.path.path_segments[1].token


async def test_the_callers_token_comes_from_the_calls_metadata(scene: Scene) -> None:
    theirs = UnsignedTokens(identity="spiffe://test/nsc", lifetime_s=77, now=scene.clock.now)
    metadata = tuple(TokenMetadata(theirs).metadata(None))
    request = scene.first()
    request.connection.path.path_segments[0].ClearField("expires")
    answer = await scene.forwarder.request(request, Call(metadata=metadata))
    first = answer.path.path_segments[0]
    assert first.token == metadata[0][1]
    assert first.expires.seconds == int(scene.clock.now()) + 77


async def test_fields_we_do_not_know_survive_both_ways(scene: Scene) -> None:
    unknown = b"\xfa\x07\x03abc"
    request = NetworkServiceRequest.FromString(
        NetworkServiceRequest(
            connection=Connection.FromString(scene.first().connection.SerializeToString() + unknown),
            mechanism_preferences=[asked("KERNEL")],
        ).SerializeToString()
    )
    answer = await scene.request(request)
    assert unknown in scene.hop.requests[0].SerializeToString()
    assert unknown in answer.SerializeToString()


async def test_the_vwires_counters_are_in_our_segment(scene: Scene) -> None:
    answer = await scene.request(scene.first(asked("MEMIF", "m")))
    assert dict(answer.path.path_segments[1].metrics) == {
        "server_interface": "MEMIF/m",
        "client_interface": "KERNEL/nse-1",
        "server_rx_packets": "7",
        "server_rx_bytes": "700",
        "server_tx_packets": "3",
        "server_tx_bytes": "300",
        "server_drops": "2",
        "client_rx_packets": "3",
        "client_rx_bytes": "300",
        "client_tx_packets": "5",
        "client_tx_bytes": "500",
        "client_drops": "0",
    }
    (status,) = scene.forwarder.statistics().connections
    assert (status.origin_id, status.client, status.state) == ("nsc-0", "nsc", "UP")


async def test_a_refresh_touches_nothing_that_fits(scene: Scene) -> None:
    answer = await scene.request(scene.first())
    scene.world.taken()
    for _ in range(3):
        answer = await scene.request(answer)
    assert {each.split()[0] for each in scene.world.taken()} == {"update"}
    assert scene.hop.requests[-1].connection.mechanism.type == "KERNEL", "what was agreed with the next hop last time"
    assert len(scene.hop.connections) == 1
    assert len(scene.forwarder._table) == 1


async def test_changed_parameters_open_the_new_port_before_the_old_one_closes(scene: Scene) -> None:
    answer = await scene.request(scene.first())
    scene.world.taken()
    answer.mechanism.parameters["name"] = "nsm-2"
    answer = await scene.request(answer)
    assert answer.mechanism.parameters["name"] == "nsm-2"
    assert scene.world.taken() == [
        "open client KERNEL/nsm-2",
        "part KERNEL/nsm-1 KERNEL/nse-1",
        "join KERNEL/nsm-2 KERNEL/nse-1",
        "update endpoint KERNEL/nse-1 mtu 9000",
        "update client KERNEL/nsm-2 mtu 9000",
        "close client KERNEL/nsm-1",
    ]


async def test_a_next_hop_that_changes_its_interface_gets_a_new_port(scene: Scene) -> None:
    answer = await scene.request(scene.first())
    scene.hop.interface = "nse-2"
    await scene.request(answer)
    assert sorted(each.interface for each in scene.world.ports) == ["KERNEL/nse-2", "KERNEL/nsm-1"]


@pytest.mark.parametrize("step", ["open client KERNEL/nsm-2", "join KERNEL/nsm-2", "update client KERNEL/nsm-2"])
async def test_a_failed_change_leaves_the_vwire_as_it_was(scene: Scene, step: str) -> None:
    answer = await scene.request(scene.first())
    changed = copy(answer)
    changed.mechanism.parameters["name"] = "nsm-2"
    scene.world.fail_at[step] = DataplaneError("broken")
    held = sorted(scene.world.held)
    with pytest.raises(DataplaneError, match="broken"):
        await scene.request(changed)
    assert sorted(scene.world.held) == held
    scene.world.taken()
    await scene.request(answer)
    assert {each.split()[0] for each in scene.world.taken()} == {"update"}


async def test_a_failed_context_is_taken_back(scene: Scene) -> None:
    answer = await scene.request(scene.first())
    changed = copy(answer)
    changed.context.MTU = 1400
    scene.world.taken()
    scene.world.fail_at["update client"] = NetlinkError("refused", errno=22)
    with pytest.raises(NetlinkError):
        await scene.request(changed)
    assert scene.world.taken() == [
        "update endpoint KERNEL/nse-1 mtu 1400",
        "update client KERNEL/nsm-1 mtu 1400",
        "update client KERNEL/nsm-1 mtu 9000",
        "update endpoint KERNEL/nse-1 mtu 9000",
    ]


async def test_preferences_are_tried_in_order_until_a_port_opens(scene: Scene) -> None:
    scene.world.fail_at["open client KERNEL"] = InvalidRequest("no such namespace")
    answer = await scene.request(scene.first(asked("VFIO"), asked("KERNEL"), asked("MEMIF")))
    assert answer.mechanism.type == "MEMIF"
    assert answer.mechanism.parameters["socketfile"].startswith("@")
    assert len(scene.hop.requests) == 1


@pytest.mark.parametrize(
    ("preferences", "error", "says"),
    [
        ([asked("VFIO"), asked("")], MechanismUnsupported, "cannot support any of the requested mechanism: VFIO"),
        ([asked("KERNEL", "")], InvalidRequest, "mechanism KERNEL: no name"),
        ([asked("VFIO"), asked("MEMIF", "")], InvalidRequest, "mechanism MEMIF: no name"),
    ],
)
async def test_mechanisms_that_cannot_work_are_refused_before_the_next_hop_is_asked(
    scene: Scene, preferences: list[object], error: type[ForwarderError], says: str
) -> None:
    with pytest.raises(error) as caught:
        await scene.request(scene.first(*preferences))
    assert says in str(caught.value)
    assert scene.hop.requests == []


async def test_a_request_without_any_mechanism_is_refused(scene: Scene) -> None:
    request = scene.first()
    del request.mechanism_preferences[:]
    with pytest.raises(InvalidRequest, match="asks for no mechanism"):
        await scene.request(request)


async def test_when_all_preferences_fail_the_error_tells_why_each_did(scene: Scene) -> None:
    scene.world.fail_at["open client KERNEL"] = InvalidRequest("no such namespace")
    scene.world.fail_at["open client MEMIF"] = DataplaneError("socket taken")
    with pytest.raises(MechanismUnsupported) as caught:
        await scene.request(scene.first(asked("KERNEL"), asked("MEMIF")))
    assert "KERNEL: no such namespace; MEMIF: socket taken" in str(caught.value)
    assert len(scene.hop.closes) == 1, "the next hop had agreed"
    scene.nothing_left()


async def test_a_next_hop_over_the_network_needs_a_mechanism_we_do_not_have(scene: Scene) -> None:
    with pytest.raises(MechanismUnsupported, match="no REMOTE mechanism"):
        await scene.request(scene.first(network_service="far"))


async def test_a_service_without_next_hop_is_not_found() -> None:
    with pytest.raises(EndpointNotFound, match="'web'"):
        async with ConfiguredNextHops(by_service={"a": "unix:///a"}).find(Connection(network_service="web")):
            pass


async def test_without_expiry_of_the_caller_nothing_is_started(scene: Scene) -> None:
    request = scene.first()
    request.connection.path.path_segments[0].ClearField("expires")
    with pytest.raises(InvalidRequest, match="no expiry"):
        await scene.request(request)
    assert scene.hop.dialled == []


async def test_an_unknown_payload_is_refused(scene: Scene) -> None:
    with pytest.raises(InvalidRequest, match="payload 'FRAME'"):
        await scene.request(scene.first(payload="FRAME"))


@pytest.mark.parametrize("step", ["open endpoint", "open client", "join", "update endpoint", "update client"])
async def test_a_failure_after_the_next_hop_agreed_undoes_everything_there_and_here(scene: Scene, step: str) -> None:
    scene.world.fail_at[step] = DataplaneError("broken", errno=5)
    with pytest.raises(DataplaneError, match="broken"):
        await scene.request(scene.first())
    assert len(scene.hop.closes) == 1
    assert scene.hop.closes[0].path.index == 1
    scene.nothing_left()
    await scene.request(scene.first())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda answer: answer.ClearField("mechanism"), "chose the mechanism ''"),
        (lambda answer: setattr(answer.mechanism, "type", "VXLAN"), "chose the mechanism 'VXLAN'"),
        (lambda answer: answer.mechanism.parameters.pop("name"), "unusable KERNEL"),
        (lambda answer: answer.path.path_segments.pop(), None),
        (lambda answer: answer.ClearField("path"), "lacks ours"),
        (lambda answer: setattr(answer, "payload", "IP"), "changed the payload"),
    ],
)
async def test_an_unusable_answer_is_the_next_hops_fault_and_closed_again(
    scene: Scene, change: object, says: str | None
) -> None:
    scene.hop.change = change  # type: ignore[assignment]
    if says is None:
        await scene.request(scene.first())
        return
    with pytest.raises(RemoteProtocolError, match=says):
        await scene.request(scene.first())
    assert len(scene.hop.closes) == 1
    scene.nothing_left()


async def test_a_refusing_next_hop_is_passed_on_and_not_closed(scene: Scene) -> None:
    scene.hop.fail = NextHopError("no", status="PERMISSION_DENIED")
    with pytest.raises(NextHopError) as caught:
        await scene.request(scene.first())
    assert caught.value.status == "PERMISSION_DENIED"
    assert scene.hop.closes == []
    assert scene.world.log == [], "nothing is opened before the next hop has agreed"


async def test_a_failed_refresh_is_told_as_down_and_the_next_success_as_up(scene: Scene) -> None:
    events = await scene.events()
    answer = await scene.request(scene.first())
    assert (await events.next())[0] == UPDATE
    scene.hop.fail = NextHopError("gone", status="UNAVAILABLE")
    with pytest.raises(NextHopError):
        await scene.request(answer)
    kind, view = await events.next()
    assert (kind, view.state) == (UPDATE, DOWN)
    scene.hop.fail = None
    await scene.request(answer)
    kind, view = await events.next()
    assert (kind, view.state) == (UPDATE, UP)
    await events.aclose()


async def test_close_goes_to_the_next_hop_last_with_what_it_answered(scene: Scene) -> None:
    answer = await scene.request(scene.first(asked("MEMIF")))
    scene.world.taken()
    await scene.close(connection(*hops(answer), network_service="forged"))
    assert scene.world.taken() == [
        "part MEMIF/nsm-1 KERNEL/nse-1",
        "close client MEMIF/nsm-1",
        "close endpoint KERNEL/nse-1",
    ]
    (closed,) = scene.hop.closes
    assert (closed.network_service, closed.mechanism.type, closed.path.index) == ("web", "KERNEL", 1)
    await scene.close(answer)
    assert len(scene.hop.closes) == 1
    scene.nothing_left()


async def test_close_of_an_unknown_connection_succeeds(scene: Scene) -> None:
    await scene.close(connection("nsc:nsc-0", "fwd:unknown", "nse:1"))
    assert scene.hop.closes == []


async def test_close_is_complete_although_the_next_hop_fails(scene: Scene) -> None:
    answer = await scene.request(scene.first())
    scene.hop.fail_dial = NextHopError("unreachable", status="UNAVAILABLE")
    await scene.close(answer)
    assert scene.world.held == []
    scene.hop.connections.clear()


async def test_close_is_complete_although_a_port_fails(scene: Scene) -> None:
    answer = await scene.request(scene.first())
    scene.world.fail_at["close client"] = NetlinkError("gone", errno=19)
    with pytest.raises(NetlinkError):
        await scene.close(answer)
    assert len(scene.hop.closes) == 1
    await scene.close(answer)
    scene.nothing_left()


async def test_close_by_a_caller_that_lost_our_answer_finds_the_connection(scene: Scene) -> None:
    await scene.request(scene.first())
    await scene.close(scene.first().connection)
    scene.nothing_left()


async def test_a_repeated_first_request_finds_its_connection_again(scene: Scene) -> None:
    first = await scene.request(scene.first(asked("MEMIF")))
    scene.world.taken()
    second = await scene.request(scene.first(asked("MEMIF")))
    assert hops(first) == hops(second)
    assert second.mechanism == first.mechanism, "with the parameters that we chose"
    assert {each.split()[0] for each in scene.world.taken()} == {"update"}


async def test_a_refresh_of_a_connection_that_we_never_saw_continues_it(scene: Scene) -> None:
    """As it comes when we were restarted: with the path, the mechanism and the endpoint of before."""
    answer = await scene.request(scene.first())
    async with Scene(dial=scene.hop.dial).forwarder as restarted:
        again = NetworkServiceRequest(connection=answer)
        taken = await restarted.request(again, Call.internal())
        assert hops(taken) == hops(answer), "every hop keeps its id"
        assert taken.mechanism == answer.mechanism
        asked_for = scene.hop.requests[-1]
        assert dict(asked_for.mechanism_preferences[0].parameters) == {"name": "nse-1"}, "the interface that is there"
        assert not asked_for.connection.HasField("mechanism")
        assert asked_for.connection.network_service_endpoint_name == "nse"
    assert scene.hop.connections == {}, "closed by the one that continued it"


async def test_an_interface_that_is_no_kernel_interface_is_not_asked_for_by_name(scene: Scene) -> None:
    request = scene.first()
    own = request.connection.path.path_segments.add(name="fwd", id="ours")
    for told in ("MEMIF/x", "KERNEL/", "KERNEL", "", "/x"):
        own.metrics["client_interface"] = told
        await scene.close(await scene.request(request))
        assert not any(each.parameters for each in scene.hop.requests[-1].mechanism_preferences), told


async def test_reselect_closes_at_the_next_hop_and_builds_anew(scene: Scene) -> None:
    events = await scene.events()
    answer = await scene.request(scene.first())
    await events.next()
    answer.state = RESELECT_REQUESTED
    answer.ClearField("mechanism")
    answer = await scene.request(NetworkServiceRequest(connection=answer, mechanism_preferences=[asked("MEMIF")]))
    assert answer.mechanism.type == "MEMIF"
    assert len(scene.hop.closes) == 1
    assert [(await events.next())[0] for _ in range(2)] == [DELETE, UPDATE]
    await events.aclose()


async def test_an_expired_connection_is_closed_in_time_for_the_close_to_run(scene: Scene) -> None:
    events = await scene.events()
    await scene.request(scene.first(), seconds=15)
    await events.next()
    await scene.clock.advance(84)
    assert len(scene.forwarder._table) == 1
    await scene.clock.advance(1.1)
    assert len(scene.hop.closes) == 1
    assert (await events.next())[0] == DELETE
    assert scene.forwarder.statistics().expired == 1
    await events.aclose()
    scene.nothing_left()


async def test_a_refresh_moves_the_expiry_and_a_failed_one_does_not(scene: Scene) -> None:
    answer = await scene.request(scene.first())
    await scene.clock.advance(90)
    answer.path.path_segments[0].expires.CopyFrom(timestamp(scene.clock.now() + 100))
    answer = await scene.request(answer)
    await scene.clock.advance(90)
    assert len(scene.forwarder._table) == 1
    answer.path.path_segments[0].expires.CopyFrom(timestamp(scene.clock.now() + 100))
    scene.hop.fail = NextHopError("no")
    with pytest.raises(NextHopError):
        await scene.request(answer)
    scene.hop.fail = None
    await scene.clock.advance(11)
    assert len(scene.forwarder._table) == 0


async def test_a_refresh_that_waits_its_turn_before_the_expiry_wins(scene: Scene) -> None:
    answer = await scene.request(scene.first())
    answer.path.path_segments[0].expires.CopyFrom(timestamp(scene.clock.now() + 1000))
    scene.hop.go.clear()
    task = asyncio.create_task(scene.request(answer))
    await scene.clock.advance(101)
    scene.hop.go.set()
    await task
    await settle()
    assert len(scene.forwarder._table) == 1


async def test_a_dead_port_turns_the_connection_down_and_the_next_request_replaces_it(scene: Scene) -> None:
    events = await scene.events()
    answer = await scene.request(scene.first())
    await events.next()
    scene.world.port(Side.CLIENT).port.die("link deleted")
    kind, view = await events.next()
    assert (kind, view.state) == (UPDATE, DOWN)
    assert scene.forwarder.statistics().connections[0].state == "DOWN"
    scene.world.taken()
    await scene.request(answer)
    assert "open client KERNEL/nsm-1" in scene.world.taken()
    assert (await events.next())[1].state == UP
    await events.aclose()


async def test_a_port_that_broke_and_recovered_is_told_as_down_until_the_next_request(scene: Scene) -> None:
    events = await scene.events()
    answer = await scene.request(scene.first())
    await events.next()
    port = scene.world.port(Side.CLIENT).port
    port.stumble("the peer sent too many bad descriptors")
    kind, view = await events.next()
    assert (kind, view.state) == (UPDATE, DOWN)
    # Neither what the next hop says nor a Request that fails makes it UP.
    (theirs,) = scene.hop.connections.values()
    theirs.context.MTU = 1300
    scene.hop.monitor_hub.update(theirs)
    assert (await events.next())[1].state == DOWN
    scene.world.fail_at["update"] = DataplaneError("refused")
    answer.context.MTU = 1200
    with pytest.raises(DataplaneError):
        await scene.request(answer)
    assert scene.forwarder.statistics().connections[0].state == "DOWN"
    scene.world.taken()
    await scene.request(answer)
    assert (await events.next())[1].state == UP
    assert not any(step.startswith("open") for step in scene.world.taken()), "the port works again"
    assert scene.world.port(Side.CLIENT).port is port
    assert scene.forwarder.statistics().went_down == 1
    await events.aclose()


async def test_what_the_next_hop_says_of_the_connection_is_told_on(scene: Scene) -> None:
    events = await scene.events()
    await scene.request(scene.first())
    await events.next()
    await settle()
    (theirs,) = scene.hop.connections.values()
    theirs.context.MTU = 1300
    scene.hop.monitor_hub.update(theirs)
    kind, view = await events.next()
    assert (kind, view.context.MTU, view.state, view.path.index) == (UPDATE, 1300, UP, 1)
    scene.hop.monitor_hub.delete(theirs.id)
    kind, view = await events.next()
    assert (kind, view.state) == (UPDATE, DOWN)
    await events.aclose()


async def test_a_broken_monitor_stream_means_down_unless_there_never_was_one(scene: Scene) -> None:
    scene.hop.fail_monitor = NextHopError("no such service", status="UNIMPLEMENTED")
    answer = await scene.request(scene.first())
    await settle()
    assert scene.forwarder.statistics().connections[0].state == "UP"
    scene.hop.fail_monitor = NextHopError("reset", status="UNAVAILABLE")
    await scene.request(answer)
    await settle()
    assert scene.forwarder.statistics().connections[0].state == "DOWN"
    scene.hop.fail_monitor = None
    await scene.request(answer)
    await settle()
    assert scene.forwarder.statistics().connections[0].state == "UP"


async def test_another_next_hop_is_asked_before_the_old_one_is_left(scene: Scene) -> None:
    answer = await scene.request(scene.first())
    answer.network_service = "other"
    await scene.request(answer)
    assert scene.hop.dialled[0] == NEXT
    assert len(scene.hop.closes) == 1
    assert "unix:///o" in scene.hop.dialled


async def test_an_answer_that_nobody_waited_for_is_closed_at_the_next_hop(scene: Scene) -> None:
    scene.hop.go.clear()
    task = asyncio.create_task(scene.request(scene.first()))
    await settle()
    assert len(scene.hop.connections) == 1
    task.cancel()
    await asyncio.wait([task])
    assert scene.hop.connections == {}
    scene.hop.go.set()
    await scene.request(scene.first())


async def test_cancelling_a_first_request_at_every_await_leaves_nothing_and_the_next_one_works(scene: Scene) -> None:
    at = 0
    while True:
        at += 1
        cancelled = await cancelled_at_wait(lambda: scene.request(scene.first(asked("MEMIF"))), at)
        await settle()
        if not cancelled:
            await scene.close(scene.first().connection)
            break
        scene.nothing_left()
        scene.world.taken()
        scene.hop.by_caller.clear()
        await scene.close(await scene.request(scene.first()))
        await settle()
        scene.nothing_left()
    assert at >= 8, "every step waits for something"


async def test_cancelling_a_change_at_every_await_leaves_one_whole_vwire(scene: Scene) -> None:
    answer = await scene.request(scene.first())
    changed = copy(answer)
    at = 0
    while True:
        at += 1
        changed.mechanism.parameters["name"] = f"nsm-{at}x"
        cancelled = await cancelled_at_wait(lambda: scene.request(changed), at)
        await settle()
        assert len(scene.world.held) == 3, "two ports and a vWire"
        assert all(each.port.wire is scene.world for each in scene.world.ports)
        if not cancelled:
            break
    assert at > 6
    await scene.request(answer)
    await scene.close(answer)
    scene.nothing_left()


async def test_cancelling_a_close_at_every_await_completes_it(scene: Scene) -> None:
    at = 0
    while True:
        at += 1
        answer = await scene.request(scene.first())
        cancelled = await cancelled_at_wait(lambda answer=answer: scene.close(answer), at)  # type: ignore[misc]
        await settle()
        scene.nothing_left()
        if not cancelled:
            break


async def test_200_connections_come_and_go_at_the_same_time(scene: Scene) -> None:
    async def life(number: int) -> None:
        request = scene.first(asked("KERNEL", f"nsm-{number}"), id=f"nsc-{number}")
        request.connection.path.path_segments[0].id = f"nsc-{number}"
        answer = await scene.request(request)
        answer = await scene.request(answer)
        assert answer.id == f"nsc-{number}"
        if number % 3:
            await scene.close(answer)

    await asyncio.gather(*(life(number) for number in range(200)))
    assert len(scene.forwarder._table) == 67
    assert len(scene.world.held) == 67 * 3
