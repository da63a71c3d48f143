"""Who an endpoint with policies serves, and what its answer's path looks like to a client that checks it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from forwarder.api.connection_pb2 import RESELECT_REQUESTED, Connection, Mechanism
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.api.path import copy
from forwarder.errors import NotAuthorized
from forwarder.mesh.endpoint import Endpoint
from forwarder.rpc import Call
from forwarder.security import (
    NETWORK_SERVICE_CLIENT,
    NETWORK_SERVICE_SERVER,
    NetworkServiceInput,
    Policies,
    SvidTokens,
    TokenMetadata,
    claims,
)
from tests.support.certificates import Fixed
from tests.support.connections import connection
from tests.support.paths import AUTHORITY, peer, svid


def tokens(name: str, lifetime_s: float = 600) -> SvidTokens:
    return SvidTokens(Fixed(svid(name), AUTHORITY), lifetime_s=lifetime_s)


@asynccontextmanager
async def nothing(_connection: Connection) -> AsyncGenerator[None, None]:
    yield


def endpoint() -> Endpoint:
    return Endpoint(
        name="nse",
        services=["web"],
        mechanisms={"KERNEL": nothing},
        tokens=tokens("nse"),
        policies=Policies.load(NETWORK_SERVICE_SERVER),
    )


def call(caller: str, maker: str | None = None, audience: str = "nse", lifetime_s: float = 600) -> Call:
    """A call of `caller` with a token that `maker` made."""
    metadata = TokenMetadata(tokens(maker or caller, lifetime_s)).metadata(peer(audience))
    return Call(peer="unix:", tls_peer=peer(caller), metadata=tuple(metadata))


def request() -> NetworkServiceRequest:
    return NetworkServiceRequest(
        connection=connection("nsc:1", network_service="web"),
        mechanism_preferences=[Mechanism(cls="LOCAL", type="KERNEL")],
    )


async def test_the_answer_s_path_passes_a_client_s_policies() -> None:
    async with endpoint() as served:
        answer = await served.request(request(), call("nsc"))
        own = claims(answer.path.path_segments[1].token)
        assert (own.subject, own.audience) == (svid("nse").identity, (svid("nsc").identity,))
        answered = NetworkServiceInput.of_answer(answer.path, 0, peer("nse"))
        await Policies.load(NETWORK_SERVICE_CLIENT).check(answered)
        await served.close(answer, call("nsc"))
        assert len(served) == 0


@pytest.mark.parametrize(
    ("caller", "rule"),
    [
        ({"caller": "nsc", "maker": "other"}, "server/prev_token_signed"),
        ({"caller": "nsc", "audience": "other"}, "common/tokens_chained"),
        ({"caller": "nsc", "lifetime_s": -5}, "common/tokens_expired"),
    ],
)
async def test_a_caller_with_a_token_that_is_not_good_gets_nothing(caller: dict[str, Any], rule: str) -> None:
    async with endpoint() as served:
        with pytest.raises(NotAuthorized, match=rule):
            await served.request(request(), call(**caller))
        assert len(served) == 0
        answer = await served.request(request(), call("nsc"))
        with pytest.raises(NotAuthorized, match=rule):
            await served.close(answer, call(**caller))
        assert len(served) == 1


async def test_another_workload_cannot_close_or_change_a_connection_whose_id_it_has_seen() -> None:
    async with endpoint() as served:
        answer = await served.request(request(), call("nsc"))
        theirs = connection("other:1", f"nse:{answer.path.path_segments[1].id}", network_service="web")
        with pytest.raises(
            NotAuthorized, match=r"asked for by spiffe://example\.org/nsc, not by spiffe://example\.org/oth"
        ):
            await served.close(copy(theirs), call("other"))
        taken = NetworkServiceRequest(connection=theirs, mechanism_preferences=request().mechanism_preferences)
        with pytest.raises(
            NotAuthorized, match=r"asked for by spiffe://example\.org/nsc, not by spiffe://example\.org/oth"
        ):
            await served.request(taken, call("other"))
        taken.connection.state = RESELECT_REQUESTED
        with pytest.raises(NotAuthorized):
            await served.request(taken, call("other"))
        assert len(served) == 1
        await served.close(answer, call("nsc"))
        assert len(served) == 0


async def test_a_caller_without_token_or_certificate_gets_nothing() -> None:
    async with endpoint() as served:
        with pytest.raises(NotAuthorized, match="the token of segment 0 "):
            await served.request(request(), Call(peer="unix:", tls_peer=peer("nsc")))
        with pytest.raises(NotAuthorized, match="the peer shows no certificate"):
            await served.request(request(), Call(peer="unix:", metadata=call("nsc").metadata))
        assert len(served) == 0
