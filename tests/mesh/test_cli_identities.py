"""The programs by hand, with identities from `vwire authority`: what the README shows."""

from pathlib import Path

from tests.support.netns import network_namespaces
from tests.support.programs import running, vwire


def test_programs_with_identities_of_one_authority_join_and_a_stranger_gets_nothing(tmp_path: Path) -> None:
    agents = {name: f"unix://{tmp_path}/agent/{name}.sock" for name in ("nse", "fwd", "nsc")}
    workloads = [each for name, url in agents.items() for each in ("--workloads", f"/{name}={url}")]
    nse, fwd = f"unix://{tmp_path}/nse.sock", f"unix://{tmp_path}/fwd.sock"
    stranger = f"unix://{tmp_path}/stranger.sock"
    with (
        network_namespaces(2) as (alice, bob),
        alice.process("sleep", "infinity"),
        bob.process("sleep", "infinity"),
        running("authority", *workloads) as authority,
        running(
            "endpoint", "--listen-on", nse, "--netns", bob.path, "--service-names", "echo",
            SPIFFE_ENDPOINT_SOCKET=agents["nse"],
        ) as endpoint,
        running(
            "forwarder", "--listen-on", fwd, "--next-hop", nse, "--mechanism-priority", "KERNEL",
            SPIFFE_ENDPOINT_SOCKET=agents["fwd"],
        ) as forwarder,
    ):  # fmt: skip
        authority.wait_for("serving, ")
        endpoint.wait_for("serving, ")
        forwarder.wait_for("serving, ")
        options = ("client", "--connect-to", fwd, "--netns", alice.path)
        with running(*options, "kernel://echo/nsm-1", SPIFFE_ENDPOINT_SOCKET=agents["nsc"]) as client:
            address = client.wait_for(r"peer ([0-9.]+)/32")[1]
            alice.run("ping", "-n", "-c", "2", "-i", "0.05", "-W", "5", address)
            assert client.end() == 0
        assert alice.links().keys() == bob.links().keys() == {"lo"}
        with running("authority", "--workloads", f"/nsc={stranger}"):
            told = vwire(*options, "--once", "kernel://echo/nsm-1", SPIFFE_ENDPOINT_SOCKET=stranger)
        assert told.returncode == 1
        assert "certificate" in told.stderr.splitlines()[-1]
        told = vwire(*options, "--once", "--insecure", "--dial-timeout", "1s", "kernel://echo/nsm-1")
        assert told.returncode == 1
        assert alice.links().keys() == bob.links().keys() == {"lo"}
        for program in (authority, endpoint, forwarder):
            assert "eyJ" not in program.output
