"""What another workload may not do to a vWire of NSM's programs: our forwarder denies it by the rule's name.

NSM's own client asks for nothing of the kind. The one who does is a client of ours, with a good SVID.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from forwarder.api.connection_pb2 import Connection, Mechanism, MonitorScopeSelector, PathSegment
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.api.path import copy
from forwarder.api.x509 import Identity, Peer
from forwarder.errors import NextHopError
from forwarder.mesh.identity import identity
from forwarder.rpc import NextHop, dial
from forwarder.security import SvidTokens, Token, TokenMetadata
from tests.support.blackout import blackout
from tests.support.connections import connection
from tests.support.netns import network_namespaces
from tests.support.nsm_go import TRUST_DOMAIN, check_path, end, nsm_mesh, until

PREFIX = "172.16.1.100/31"
SOURCE, TARGET = "172.16.1.101", "172.16.1.100"
PATIENCE_S = 10.0


def who(name):
    return f"spiffe://{TRUST_DOMAIN}/{name}"


class Replayed:
    """The token of somebody else."""

    def __init__(self, segment: PathSegment) -> None:
        self._token = Token(text=segment.token, expires=segment.expires.ToNanoseconds())

    def token(self, peer: Peer | None) -> Token:
        del peer
        return self._token


class Misaddressed(SvidTokens):
    """Our own tokens, made for somebody who is not called."""

    def token(self, peer: Peer | None) -> Token:
        assert peer is not None
        return super().token(Peer(identity=who("nse"), certificate=peer.certificate))


@dataclass(kw_only=True)
class Robber:
    """A workload with an SVID of its own, and what it has learnt about the vWire of another."""

    identity: Identity
    forwarder: str
    manager: str
    seen: Connection
    """The vWire's connection as the forwarder tells those who watch it."""
    pod: object

    @property
    def segments(self):
        return self.seen.path.path_segments

    def tokens(self, kind=SvidTokens, lifetime_s=60):
        return kind(self.identity, lifetime_s=lifetime_s)

    @asynccontextmanager
    async def calling(self, url="", tokens=None):
        credentials = TokenMetadata(tokens or self.tokens())
        async with dial(url or self.forwarder, identity=self.identity, credentials=credentials) as channel:
            yield NextHop(channel)

    def own(self):
        """A connection of its own that claims the forwarder's segment of the vWire."""
        claimed = f"{self.segments[2].name}:{self.segments[2].id}"
        return connection("other:x", claimed, network_service=self.seen.network_service)

    def stolen(self):
        """The vWire's connection as its manager would bring it, tokens and all."""
        made = copy(self.seen)
        del made.path.path_segments[3:]
        made.path.index, made.id = 1, self.segments[1].id
        return made

    def interface(self):
        """What it would like to have."""
        parameters = {"name": "nsm-1", "inodeURL": f"file:///proc/self/fd/{self.pod.fd}"}
        return Mechanism(cls="LOCAL", type="KERNEL", parameters=parameters)

    async def asks(self, asked, *, url="", tokens=None):
        request = NetworkServiceRequest(connection=asked, mechanism_preferences=[self.interface()])
        async with self.calling(url, tokens) as server:
            await server.request(request, timeout_s=PATIENCE_S)


async def closes_by_its_id(robber):
    async with robber.calling() as forwarder:
        await forwarder.close(robber.own(), timeout_s=PATIENCE_S)


async def closes_by_the_whole_path(robber):
    async with robber.calling() as forwarder:
        await forwarder.close(robber.stolen(), timeout_s=PATIENCE_S)


async def closes_with_the_managers_token(robber):
    async with robber.calling(tokens=Replayed(robber.segments[1])) as forwarder:
        await forwarder.close(robber.stolen(), timeout_s=PATIENCE_S)


async def refreshes_by_the_whole_path(robber):
    await robber.asks(robber.stolen())


async def refreshes_with_the_managers_token(robber):
    await robber.asks(robber.stolen(), tokens=Replayed(robber.segments[1]))


async def begins_with_a_token_for_another(robber):
    fresh = connection("other:y", network_service=robber.seen.network_service)
    await robber.asks(fresh, tokens=robber.tokens(Misaddressed))


async def begins_with_the_clients_token_before_its_own(robber):
    fresh = connection("nsc:y", "other:z", index=1, network_service=robber.seen.network_service)
    fresh.path.path_segments[0].CopyFrom(robber.segments[0])
    await robber.asks(fresh)


async def begins_with_an_expired_token(robber):
    fresh = connection("other:y", network_service=robber.seen.network_service)
    await robber.asks(fresh, tokens=robber.tokens(lifetime_s=-5))


CHAINED = "common/tokens_chained", "the token of segment 0 is for {}, and that of segment 1 by {}"
BY_OTHER = CHAINED[0], CHAINED[1].format(who("manager"), who("other"))
FOR_ANOTHER = CHAINED[0], CHAINED[1].format(who("nse"), who("forwarder"))
NOT_SIGNED = "server/prev_token_signed", f"the token of segment 1 was not signed by the certificate of {who('other')}"
EXPIRED = "common/tokens_expired", r"the token of segment 0 expired [\d.]+ s ago"

MISDEEDS: list[tuple[Callable[[Robber], Awaitable[None]], tuple[str, str]]] = [
    (closes_by_its_id, BY_OTHER),
    (closes_by_the_whole_path, BY_OTHER),
    (closes_with_the_managers_token, NOT_SIGNED),
    (refreshes_by_the_whole_path, BY_OTHER),
    (refreshes_with_the_managers_token, NOT_SIGNED),
    (begins_with_a_token_for_another, FOR_ANOTHER),
    (begins_with_the_clients_token_before_its_own, BY_OTHER),
    (begins_with_an_expired_token, EXPIRED),
]
"""And the policy that denies each, with what it says."""


@dataclass(kw_only=True)
class Victim:
    """A vWire between NSM's client and its endpoint, through its manager and our forwarder."""

    mesh: object
    manager: object
    forwarder: object
    client: object
    endpoint: object
    near: object
    far: object
    elsewhere: object


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    with network_namespaces(3) as (near, far, elsewhere), nsm_mesh(tmp_path_factory.mktemp("node")) as mesh:
        mesh.authority(["registry", "manager", "forwarder", "nse", "nsc", "other"])
        mesh.registry()
        manager = mesh.manager()
        forwarder = mesh.forwarder()
        endpoint = mesh.endpoint(far, NSM_CIDR_PREFIX=PREFIX)
        client = mesh.client(near, "kernel://icmp-responder/nsm-1")
        check_path(client.wait_event("connected")["connection"], ["nsc", "manager", "forwarder", "nse"])
        yield Victim(
            mesh=mesh,
            manager=manager,
            forwarder=forwarder,
            client=client,
            endpoint=endpoint,
            near=near,
            far=far,
            elsewhere=elsewhere,
        )
        end(client)
        endpoint.wait_event("closed")
        until(lambda: set(near.links()) == {"lo"} == set(far.links()), "nothing is left in the pods")


@asynccontextmanager
async def robber_of(victim):
    """Whoever has an SVID may watch, and sees the paths of others."""
    forwarder = f"unix://{victim.mesh.directory}/forwarder.sock"
    async with identity(victim.mesh.workload("other")) as other:
        tokens = TokenMetadata(SvidTokens(other, lifetime_s=60))
        async with (
            dial(forwarder, identity=other, credentials=tokens) as channel,
            NextHop(channel).monitor(MonitorScopeSelector()) as events,
        ):
            event = await anext(events)
        (seen,) = event.connections.values()
        yield Robber(
            identity=other, forwarder=forwarder, manager=victim.mesh.manager_url, seen=seen, pod=victim.elsewhere
        )


def interfaces(victim):
    links = [*victim.near.links().items(), *victim.far.links().items()]
    return [(name, link["ifindex"], link["address"]) for name, link in links]


@asynccontextmanager
async def untouched(victim):
    """Checks that meanwhile no frame was lost and nothing was made or taken away."""
    before = interfaces(victim)
    async with blackout(victim.near, victim.far, SOURCE, TARGET) as report:
        yield
        await asyncio.sleep(0.1)
    assert report.nothing_lost, report
    assert interfaces(victim) == before
    assert set(victim.elsewhere.links()) == {"lo"}
    assert not victim.endpoint.events("closed")


@pytest.mark.parametrize(("misdeed", "denial"), MISDEEDS, ids=[each.__name__ for each, _ in MISDEEDS])
async def test_a_misdeed_is_denied_by_the_rules_name_and_the_vwire_carries_on(victim, misdeed, denial):
    policy, reason = denial
    logged = len(victim.forwarder.output)
    async with robber_of(victim) as robber, untouched(victim):
        with pytest.raises(NextHopError, match=rf"no sufficient privileges: policy {policy}: {reason}") as denied:
            await misdeed(robber)
    assert denied.value.status == "PERMISSION_DENIED"
    log = victim.forwarder.output[logged:]
    assert re.search(rf"policy {policy} denies {who('other')}: {reason}", log), log


async def test_a_vwire_is_its_clients_whatever_policies_allow(victim):
    logged = len(victim.forwarder.output)
    async with robber_of(victim) as robber, untouched(victim):
        not_its_own = f"the connection belongs to {who('nsc')}, not to {who('other')}"
        with pytest.raises(NextHopError, match=not_its_own) as denied:
            await robber.asks(robber.own())
        assert denied.value.status == "PERMISSION_DENIED"

        # NSM's manager passes it on, and does not say what was answered.
        claimed = [f"{segment.name}:{segment.id}" for segment in robber.segments[1:3]]
        service = robber.seen.network_service
        with pytest.raises(NextHopError):
            await robber.asks(connection("other:x", *claimed, network_service=service), url=robber.manager)
        answers = [told for told in victim.manager.messages() if told.get("code") == "PermissionDenied"]
        assert any(not_its_own in told["error"] for told in answers)
    log = victim.forwarder.output[logged:]
    assert log.count(f"denied: {not_its_own}") == 2
