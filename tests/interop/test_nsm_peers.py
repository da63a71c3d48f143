"""NSM's own programs among themselves, with identities from our authority."""

from tests.support.netns import network_namespaces
from tests.support.nsm_go import nsm_mesh


def test_a_service_that_is_registered_is_found_and_lacks_only_a_forwarder(tmp_path):
    with network_namespaces(2) as (near, far), nsm_mesh(tmp_path) as mesh:
        mesh.authority(["registry", "manager", "nse", "nsc"])
        mesh.registry()
        mesh.manager()
        endpoint = mesh.endpoint(far)
        registered = endpoint.wait_event("registered")["endpoint"]
        assert registered["path_ids"] == [f"spiffe://vwire.test/{name}" for name in ("nse", "manager", "registry")]
        client = mesh.client(near, "kernel://icmp-responder/nsm-1", NSM_ONCE="true", NSM_REQUEST_TIMEOUT="3s")
        assert "no candidates found" in client.wait_event("refused")["error"]
