"""Whom our forwarder lets in when NSM's own client calls it, and for how long."""

import asyncio
import time

import pytest

from forwarder.api.connection_pb2 import Connection
from forwarder.errors import NextHopError
from forwarder.mesh.identity import identity
from forwarder.rpc import NextHop, dial
from tests.support.identities import Held
from tests.support.netns import network_namespaces
from tests.support.nsm_go import check_path, end, kill, nsm_mesh, until

SERVICE = "kernel://icmp-responder/nsm-1"
SHORT = {"NSM_MAX_TOKEN_LIFETIME": "3s", "NSM_REQUEST_TIMEOUT": "1s"}


@pytest.fixture
def pods():
    """Where the client is, and where the endpoint."""
    with network_namespaces(2) as pods:
        yield pods


def refused(client, near):
    """Returns with which words, and checks that nothing was made."""
    client.wait_event("error")
    told = client.events("refused")[0]["error"]
    assert set(near.links()) == {"lo"}
    return told


async def told(*workloads):
    """Returns what each is told by its authority now, and will not hear of any renewal."""
    found = []
    for workload in workloads:
        async with identity(workload) as now:
            found.append(Held(now.svid, now.bundles))
    return found


def turned_away(who, url, forwarder, alert, why):
    """Calls our forwarder, and checks that it says there and in its log why it does not listen."""

    async def calls():
        async with dial(url, identity=who) as channel:
            await NextHop(channel).close(Connection(id="x"), timeout_s=5)

    with pytest.raises(NextHopError, match=f"the peer refused with the alert '{alert}'"):
        asyncio.run(calls())
    forwarder.wait_for(f"a connection was refused: .*the peer's certificate is not accepted: {why}")


def test_a_client_that_calls_us_directly_is_served_and_one_of_another_authority_is_not(tmp_path, pods):
    near, far = pods
    with nsm_mesh(tmp_path) as mesh:
        mesh.authority(["registry", "manager", "forwarder", "nse", "nsc"])
        mesh.authority(["stranger"])
        mesh.registry()
        mesh.manager()
        forwarder = mesh.forwarder()
        endpoint = mesh.endpoint(far)
        url = f"unix://{tmp_path}/forwarder.sock"
        directly = {"NSM_CONNECT_TO": url, "NSM_ONCE": "true"}
        stranger = mesh.client(near, SERVICE, name="stranger", NSM_REQUEST_TIMEOUT="2s", **directly)
        assert "certificate signed by unknown authority" in refused(stranger, near)
        strange, ours = asyncio.run(told(mesh.workload("stranger"), mesh.workload("nsc")))
        turned_away(
            Held(strange.svid, ours.bundles), url, forwarder, "unknown ca", "unable to get local issuer certificate"
        )
        client = mesh.client(near, SERVICE, **directly)
        check_path(client.wait_event("connected")["connection"], ["nsc", "forwarder", "nse"])
        for program in (client, endpoint, forwarder):
            end(program)


def test_connections_outlive_the_certificates_of_everybody_and_end_with_the_last_ones(tmp_path, pods):
    near, far = pods
    with nsm_mesh(tmp_path) as mesh:
        authority = mesh.authority(["forwarder", "nse", "nsc", "other"], NSM_SVID_LIFETIME="6s")
        (stale,) = asyncio.run(told(mesh.workload("other")))
        endpoint = mesh.endpoint(far, NSM_CONNECT_TO="")
        forwarder = mesh.forwarder(NSM_NEXT_HOP=f"unix://{tmp_path}/nse.sock")
        client = mesh.client(near, SERVICE, NSM_CONNECT_TO=f"unix://{tmp_path}/forwarder.sock", **SHORT)
        client.wait_event("connected")
        before = near.links()["nsm-1"]
        time.sleep(13)
        assert not client.events("refused")
        assert near.links()["nsm-1"]["ifindex"] == before["ifindex"]
        turned_away(
            stale, f"unix://{tmp_path}/forwarder.sock", forwarder, "certificate expired", "certificate has expired"
        )

        kill(authority)
        client.wait_event("refused", lambda told: "expired" in told["error"])
        with near.process("sleep", "60"):
            kill(client)
            until(lambda: set(near.links()) == {"lo"} == set(far.links()), "what nobody vouches for is gone")
        kill(endpoint)
        end(forwarder)
