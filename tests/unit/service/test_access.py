"""Calls are checked by NSM's policies, on Request, on Close and on monitors; our own events are not."""

from collections.abc import AsyncIterator
from dataclasses import replace

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import serialization

from forwarder.api.connection_pb2 import RESELECT_REQUESTED, Connection, MonitorScopeSelector, PathSegment
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.api.path import copy
from forwarder.api.spiffe_id import SpiffeId
from forwarder.api.x509 import Peer, Svid
from forwarder.errors import NotAuthorized
from forwarder.rpc import Call
from forwarder.security import (
    NETWORK_SERVICE_SERVER,
    Authority,
    Policies,
    SvidTokens,
    Token,
    TokenMetadata,
    claims,
    rfc3339,
)
from forwarder.security.metadata import EXPIRES, TOKEN
from forwarder.service.access import Access
from forwarder.service.wiring import Wiring
from tests.support.certificates import Fixed
from tests.support.clock import TurnedClock, settle
from tests.unit.service.test_request import Scene

DOMAIN = "example.org"
LIFETIME_S = 600


class Workload:
    """Somebody with an SVID."""

    def __init__(self, name: str, authority: Authority, clock: TurnedClock) -> None:
        self.identity = Fixed(authority.issue(SpiffeId.parse(f"spiffe://{DOMAIN}/{name}")), authority)
        self.tokens = SvidTokens(self.identity, lifetime_s=LIFETIME_S, now=clock.now)

    @property
    def svid(self) -> Svid:
        return self.identity.svid

    @property
    def peer(self) -> Peer:
        return Peer(identity=self.svid.identity, certificate=self.svid.certificates[0])

    def calls(self, server: "Workload") -> Call:
        return Call(peer="unix:x", tls_peer=self.peer, metadata=tuple(TokenMetadata(self.tokens).metadata(server.peer)))


class Secure(Scene):
    """A client, a manager, and a forwarder that checks what NSM's does."""

    def __init__(self, *monitor: str) -> None:
        clock = TurnedClock()
        self.authority = authority = Authority(DOMAIN, clock=clock)
        self.client, self.manager, self.ours, self.other = (
            Workload(name, authority, clock) for name in ("nsc", "nsmgr", "fwd", "other")
        )
        policies = Policies.load(NETWORK_SERVICE_SERVER, clock=clock)
        access = Access(policies, Policies.load(monitor, clock=clock))
        super().__init__(tokens=self.ours.tokens, access=access)
        self.forwarder._parts = replace(self.forwarder._parts, clock=clock)
        self.clock = clock

    def asked(self, client: Workload | None = None) -> NetworkServiceRequest:
        """What the manager sends on for a client."""
        request = self.first()
        (segment,) = request.connection.path.path_segments
        segment.token = (client or self.client).tokens.token(self.manager.peer).text
        request.connection.path.path_segments.add(name="nsmgr", id="nsmgr-0")
        request.connection.path.index = 1
        request.connection.id = "nsmgr-0"
        return request

    async def by_manager(self, given: NetworkServiceRequest | Connection) -> Connection:
        request = NetworkServiceRequest(connection=given) if isinstance(given, Connection) else given
        return await self.forwarder.request(request, self.manager.calls(self.ours))


@pytest_asyncio.fixture
async def scene() -> AsyncIterator[Secure]:
    made = Secure()
    async with made.forwarder:
        yield made
    await settle()
    made.nothing_left()
    assert made.forwarder._parts.access._callers == {}


async def test_a_request_with_chained_signed_tokens_is_served(scene: Secure) -> None:
    answer = await scene.by_manager(scene.asked())
    (sent,) = scene.hop.requests
    tokens = [claims(segment.token) for segment in sent.connection.path.path_segments]
    assert [each.subject.rsplit("/", 1)[1] for each in tokens] == ["nsc", "nsmgr", "fwd"]
    assert [each.audience[0].rsplit("/", 1)[1] for each in tokens] == ["nsmgr", "fwd", "nsmgr"]
    assert all(segment.HasField("expires") for segment in answer.path.path_segments)
    again = await scene.by_manager(answer)
    assert again.id == answer.id


def forged(scene: Secure, request: NetworkServiceRequest) -> Call:
    del request
    return replace(scene.manager.calls(scene.ours), tls_peer=scene.other.peer)


def for_another(scene: Secure, request: NetworkServiceRequest) -> Call:
    del request
    return scene.manager.calls(scene.other)


def unchained(scene: Secure, request: NetworkServiceRequest) -> Call:
    request.connection.path.path_segments[0].token = scene.client.tokens.token(scene.other.peer).text
    return scene.manager.calls(scene.ours)


def no_jwt(scene: Secure, request: NetworkServiceRequest) -> Call:
    request.connection.path.path_segments[0].token = "nonsense"
    return scene.manager.calls(scene.ours)


def expired(scene: Secure, request: NetworkServiceRequest) -> Call:
    early = SvidTokens(scene.client.identity, lifetime_s=-5, now=scene.clock.now)
    request.connection.path.path_segments[0].token = early.token(scene.manager.peer).text
    return scene.manager.calls(scene.ours)


def without_token(scene: Secure, request: NetworkServiceRequest) -> Call:
    del request
    return replace(scene.manager.calls(scene.ours), metadata=())


def without_certificate(scene: Secure, request: NetworkServiceRequest) -> Call:
    del request
    return replace(scene.manager.calls(scene.ours), tls_peer=None)


DENIALS = [
    (forged, "server/prev_token_signed"),
    (for_another, "common/tokens_chained"),
    (unchained, "common/tokens_chained"),
    (no_jwt, "common/tokens_"),
    (expired, "common/tokens_expired"),
    (without_token, "common/tokens_"),
    (without_certificate, "server/prev_token_signed"),
]


@pytest.mark.parametrize(("spoil", "rule"), DENIALS, ids=[spoil.__name__ for spoil, _ in DENIALS])
async def test_a_spoiled_request_is_denied_by_name_and_nothing_is_begun(
    scene: Secure, spoil: object, rule: str
) -> None:
    request = scene.asked()
    call = spoil(scene, request)  # type: ignore[operator]
    with pytest.raises(NotAuthorized) as caught:
        await scene.forwarder.request(request, call)
    assert "no sufficient privileges" in str(caught.value)
    assert rule in str(caught.value)
    assert scene.hop.dialled == []
    scene.nothing_left()


# A refresh without a token of its own still has the caller's last one in its path, as good as when it came.
SPOILED_REFRESHES = [spoil for spoil, _ in DENIALS if spoil is not without_token]


@pytest.mark.parametrize("spoil", SPOILED_REFRESHES, ids=[spoil.__name__ for spoil in SPOILED_REFRESHES])
async def test_a_spoiled_refresh_is_denied_and_leaves_the_vwire_as_it_was(scene: Secure, spoil: object) -> None:
    answer = await scene.by_manager(scene.asked())
    again = NetworkServiceRequest(connection=copy(answer))
    call = spoil(scene, again)  # type: ignore[operator]
    with pytest.raises(NotAuthorized):
        await scene.forwarder.request(again, call)
    assert scene.forwarder.statistics().connections[0].state == "UP"
    assert len(scene.hop.requests) == 1
    await scene.by_manager(answer)


async def test_a_close_is_checked_on_the_path_that_was_established(scene: Secure) -> None:
    answer = await scene.by_manager(scene.asked())
    ours = answer.path.path_segments[2]
    forged_path = Connection(id="mine")
    forged_path.path.path_segments.extend([PathSegment(name="mine", id="mine"), PathSegment(name="fwd", id=ours.id)])
    with pytest.raises(NotAuthorized, match="common/tokens_chained"):
        await scene.forwarder.close(forged_path, scene.other.calls(scene.ours))
    assert scene.hop.closes == []
    await scene.forwarder.close(answer, scene.manager.calls(scene.ours))
    assert len(scene.hop.closes) == 1
    sent = [claims(segment.token) for segment in scene.hop.closes[0].path.path_segments[:2]]
    assert [each.subject.rsplit("/", 1)[1] for each in sent] == ["nsc", "nsmgr"]


async def test_a_close_brings_the_next_hop_the_token_that_came_with_it(scene: Secure) -> None:
    answer = await scene.by_manager(scene.asked())
    await scene.clock.advance(30)
    before = scene.hop.requests[0].connection.path.path_segments[1].expires.seconds
    await scene.forwarder.close(answer, scene.manager.calls(scene.ours))
    assert scene.hop.closes[0].path.path_segments[1].expires.seconds == before + 30


async def test_another_client_cannot_take_a_connection_over(scene: Secure) -> None:
    answer = await scene.by_manager(scene.asked())
    taken = NetworkServiceRequest(connection=copy(answer))
    taken.connection.path.path_segments[0].token = scene.other.tokens.token(scene.manager.peer).text
    with pytest.raises(NotAuthorized, match=f"belongs to spiffe://{DOMAIN}/nsc, not to spiffe://{DOMAIN}/other"):
        await scene.by_manager(taken)
    assert len(scene.hop.requests) == 1


def pretends(scene: Secure, subject: Workload, audience: Workload) -> str:
    """A token that says it is the subject's, signed by the other workload: nothing in it is the subject's."""
    key = serialization.load_der_private_key(scene.other.svid.private_key, password=None)
    claims = {
        "sub": subject.svid.identity,
        "aud": [audience.svid.identity],
        "exp": int(scene.clock.now()) + LIFETIME_S,
    }
    return jwt.encode(claims, key, algorithm="ES256")  # type: ignore[arg-type]  # P-256


async def test_a_refresh_is_not_taken_from_another_caller_that_made_the_client_s_token_up(scene: Secure) -> None:
    answer = await scene.by_manager(scene.asked())
    taken = NetworkServiceRequest(connection=copy(answer))
    taken.connection.path.path_segments[0].token = pretends(scene, scene.client, scene.other)
    with pytest.raises(NotAuthorized, match=f"asked for by spiffe://{DOMAIN}/nsmgr, not by spiffe://{DOMAIN}/other"):
        await scene.forwarder.request(taken, scene.other.calls(scene.ours))
    assert len(scene.hop.requests) == 1


@pytest.mark.parametrize("keeps_client", [False, True])
async def test_another_caller_cannot_have_the_endpoint_left_or_the_connection_closed(
    scene: Secure, keeps_client: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = await scene.by_manager(scene.asked())
    monkeypatch.setattr(Wiring, "keeps_client", keeps_client)
    elsewhere = NetworkServiceRequest(connection=copy(answer))
    elsewhere.connection.state = RESELECT_REQUESTED
    with pytest.raises(NotAuthorized):
        await scene.forwarder.request(elsewhere, scene.other.calls(scene.ours))
    assert scene.hop.closes == []
    assert scene.forwarder.statistics().connections[0].state == "UP"
    monkeypatch.undo()


async def test_a_close_is_not_taken_from_another_caller_that_says_it_is_the_manager(
    scene: Secure, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await scene.by_manager(scene.asked())
    token = Token(text=pretends(scene, scene.manager, scene.ours), expires=int(scene.clock.now() + 60) * 10**9)
    metadata = ((TOKEN, token.text), (EXPIRES, rfc3339.text(token.expires)))
    with pytest.raises(NotAuthorized, match=f"asked for by spiffe://{DOMAIN}/nsmgr, not by spiffe://{DOMAIN}/other"):
        await scene.forwarder.close(answer, replace(scene.other.calls(scene.ours), metadata=metadata))
    assert scene.hop.closes == []
    assert "denied: the connection was asked for by" in caplog.text


async def test_a_caller_with_a_renewed_certificate_is_the_same_caller(scene: Secure) -> None:
    answer = await scene.by_manager(scene.asked())
    renewed = Workload("nsmgr", scene.authority, scene.clock)
    again = await scene.forwarder.request(NetworkServiceRequest(connection=answer), renewed.calls(scene.ours))
    assert again.id == answer.id
    await scene.forwarder.close(again, renewed.calls(scene.ours))
    assert len(scene.hop.closes) == 1


async def test_an_expiry_is_nobody_s_call_and_not_checked(scene: Secure) -> None:
    await scene.by_manager(scene.asked())
    await scene.clock.advance(LIFETIME_S + 1)
    assert len(scene.hop.closes) == 1
    assert scene.forwarder.statistics().expired == 1


async def test_monitors_are_open_to_all_by_default(scene: Secure) -> None:
    events = scene.forwarder.monitor(MonitorScopeSelector(), scene.other.calls(scene.ours))
    assert (await anext(events)).type == 0
    await events.aclose()


async def test_with_a_monitor_policy_only_the_caller_watches_its_connections() -> None:
    scene = Secure("etc/nsm/opa/monitor/.*.rego")
    async with scene.forwarder:
        answer = await scene.by_manager(scene.asked())
        selector = MonitorScopeSelector(path_segments=[PathSegment(id="nsmgr-0")])
        events = scene.forwarder.monitor(selector, scene.manager.calls(scene.ours))
        assert len((await anext(events)).connections) == 1
        await events.aclose()
        with pytest.raises(NotAuthorized, match="monitor/service_connection"):
            await anext(scene.forwarder.monitor(selector, scene.other.calls(scene.ours)))
        await scene.forwarder.close(answer, scene.manager.calls(scene.ours))
        with pytest.raises(NotAuthorized):
            await anext(scene.forwarder.monitor(selector, scene.manager.calls(scene.ours)))
