"""Our client and our endpoint in the place of NSM's, one at a time and both at once."""

from pathlib import Path

import pytest

from tests.support.netns import network_namespaces
from tests.support.nsm_go import check_path, end, kill, nsm_mesh, until

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


def our_endpoint(mesh, netns, **variables):
    settings = {
        "NSM_NAME": "nse",
        "NSM_CONNECT_TO": mesh.manager_url,
        "NSM_LISTEN_ON": f"unix://{mesh.directory}/nse.sock",
        "NSM_CIDR_PREFIX": PREFIX,
        **variables,
    }
    return mesh.vwire("endpoint", name="nse", netns=netns, **settings)


def our_client(mesh, netns):
    return mesh.vwire("client", SERVICE, name="nsc", netns=netns, NSM_NAME="nsc", NSM_CONNECT_TO=mesh.manager_url)


def test_our_client_is_served_through_their_manager_by_their_endpoint(tmp_path, pods):
    near, far = pods
    with nsm_mesh(tmp_path) as mesh:
        mesh.authority(["registry", "manager", "forwarder", "nse", "nsc"])
        mesh.registry()
        mesh.manager()
        mesh.forwarder()
        endpoint = mesh.endpoint(far, NSM_CIDR_PREFIX=PREFIX)
        client = our_client(mesh, near)
        client.wait_for(r"172\.16\.1\.101")
        ping(near)
        check_path(endpoint.wait_event("connected")["connection"], ["nsc", "manager", "forwarder", "nse"])
        end(client)
        endpoint.wait_event("closed")
        nothing_left(near, far)


def test_our_endpoint_registers_with_their_manager_and_serves_their_client_then_ours(tmp_path, pods):
    near, far = pods
    with nsm_mesh(tmp_path) as mesh:
        mesh.authority(["registry", "manager", "forwarder", "nse", "nsc"])
        registry = mesh.registry()
        manager = mesh.manager()
        mesh.forwarder()
        endpoint = our_endpoint(mesh, far, NSM_LABELS="app:icmp,version:1")
        endpoint.wait_for("registered as nse of icmp-responder")
        sent = [told for told in registry.messages() if told["side"] == "server" and told["what"] == "request"]
        services = [told["message"] for told in sent if told["method"].endswith("NetworkServiceRegistry/Register")]
        assert [(each["name"], each["payload"]) for each in services] == [("icmp-responder", "ETHERNET")]
        endpoints = [told["message"] for told in sent if told["method"].endswith("EndpointRegistry/Register")]
        (ours,) = [each for each in endpoints if each["name"].startswith("nse")]
        assert ours["network_service_labels"] == {"icmp-responder": {"labels": {"app": "icmp", "version": "1"}}}

        client = mesh.client(near, SERVICE)
        check_path(client.wait_event("connected")["connection"], ["nsc", "manager", "forwarder", "nse"])
        ping(near)
        end(client)
        nothing_left(near, far)

        ours = our_client(mesh, near)
        ours.wait_for(r"172\.16\.1\.101")
        ping(near)
        end(ours)
        nothing_left(near, far)

        # A manager that restarts has it again, without being asked.
        kill(manager)
        mesh.manager()
        endpoint.wait_for("not registered, trying again(.|\n)*registered as nse of icmp-responder")
        end(endpoint)
        assert f"unregistered from {mesh.manager_url}" in endpoint.output


def test_our_endpoint_serves_their_client(tmp_path, pods):
    near, far = pods
    with nsm_mesh(tmp_path) as mesh:
        mesh.authority(["forwarder", "nse", "nsc"])
        socket = tmp_path / "nse.sock"
        endpoint = our_endpoint(mesh, far, NSM_CONNECT_TO="")
        until(Path(socket).exists, "the endpoint listens")
        mesh.forwarder(NSM_NEXT_HOP=f"unix://{socket}")
        client = mesh.client(near, SERVICE, NSM_CONNECT_TO=f"unix://{tmp_path}/forwarder.sock")
        check_path(client.wait_event("connected")["connection"], ["nsc", "forwarder", "nse"])
        ping(near)
        end(client)
        nothing_left(near, far)
        end(endpoint)
