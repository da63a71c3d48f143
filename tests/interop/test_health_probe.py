"""The probe that Kubernetes runs, as the manifest has it, with an identity of its own."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.peers import missing
from tests.support.programs import ROOT, running

PROBE = ROOT / "build" / "grpc-health-probe"
CONTAINER = yaml.safe_load((ROOT / "deploy/kubernetes/forwarder.yaml").read_text())["spec"]["template"]["spec"][
    "containers"
][0]


def probe(listen_on, agent):
    """Runs the readiness probe of the manifest, but on `listen_on`."""
    program, *options, _ = CONTAINER["readinessProbe"]["exec"]["command"]
    assert Path(program).name == PROBE.name
    return subprocess.run(
        [PROBE, *options, f"-addr={listen_on}"],
        env={**os.environ, "SPIFFE_ENDPOINT_SOCKET": agent},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.fixture(autouse=True)
def _probe_is_there():
    if not PROBE.exists():
        missing("build/grpc-health-probe, from its Go module")


def test_the_probe_of_the_manifest_sees_a_serving_forwarder_and_no_other(tmp_path):
    agent, listen_on = f"unix://{tmp_path}/agent.sock", f"unix://{tmp_path}/fwd.sock"
    stranger = f"unix://{tmp_path}/stranger.sock"
    with (
        running("authority", "--workloads", f"/fwd={agent}") as authority,
        running("authority", "--workloads", f"/fwd={stranger}") as other,
    ):
        authority.wait_for("serving, ")
        other.wait_for("serving, ")
        assert probe(listen_on, agent).returncode != 0
        with running("forwarder", "--listen-on", listen_on, SPIFFE_ENDPOINT_SOCKET=agent) as forwarder:
            forwarder.wait_for("serving, ")
            told = probe(listen_on, agent)
            assert (told.returncode, told.stderr.strip()) == (0, "status: SERVING")
            assert probe(listen_on, stranger).returncode != 0
            assert forwarder.end() == 0
        assert probe(listen_on, agent).returncode != 0
