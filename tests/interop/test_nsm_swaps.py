"""Our client and our endpoint in the place of NSM's, one at a time."""

from pathlib import Path

import pytest

from tests.support.netns import network_namespaces
from tests.support.nsm_go import check_path, end, nsm_mesh, until

SERVICE = "kernel://icmp-responder/nsm-1"
PREFIX = "172.16.1.100/31"


@pytest.fixture
def pods():
    """Where the client is, and where the endpoint."""
    with network_namespaces(2) as pods:
        yield pods


def ping(near):
    near.run("ping", "-c", "3", "-i", "0.05", "-W", "2", "-I", "172.16.1.101", "172.16.1.100")


def nothing_left(near, far):
    until(lambda: set(near.links()) == {"lo"} == set(far.links()), "nothing is left in the pods")


def test_our_client_is_served_through_their_manager_by_their_endpoint(tmp_path, pods):
    near, far = pods
    with nsm_mesh(tmp_path) as mesh:
        mesh.authority(["registry", "manager", "forwarder", "nse", "nsc"])
        mesh.registry()
        mesh.manager()
        mesh.forwarder()
        endpoint = mesh.endpoint(far, NSM_CIDR_PREFIX=PREFIX)
        client = mesh.vwire("client", SERVICE, name="nsc", netns=near, NSM_NAME="nsc", NSM_CONNECT_TO=mesh.manager_url)
        client.wait_for(r"172\.16\.1\.101")
        ping(near)
        check_path(endpoint.wait_event("connected")["connection"], ["nsc", "manager", "forwarder", "nse"])
        end(client)
        endpoint.wait_event("closed")
        nothing_left(near, far)


def test_our_endpoint_serves_their_client(tmp_path, pods):
    near, far = pods
    with nsm_mesh(tmp_path) as mesh:
        mesh.authority(["forwarder", "nse", "nsc"])
        socket = tmp_path / "nse.sock"
        endpoint = mesh.vwire(
            "endpoint",
            name="nse",
            netns=far,
            NSM_NAME="nse",
            NSM_LISTEN_ON=f"unix://{socket}",
            NSM_CIDR_PREFIX=PREFIX,
        )
        until(Path(socket).exists, "the endpoint listens")
        mesh.forwarder(NSM_NEXT_HOP=f"unix://{socket}")
        client = mesh.client(near, SERVICE, NSM_CONNECT_TO=f"unix://{tmp_path}/forwarder.sock")
        check_path(client.wait_event("connected")["connection"], ["nsc", "forwarder", "nse"])
        ping(near)
        end(client)
        nothing_left(near, far)
        end(endpoint)
