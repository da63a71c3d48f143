"""Identities over sockets: the embedded authority and the programs that follow it."""

import asyncio
import signal
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from forwarder.api.workload_pb2 import X509BundlesRequest, X509SVIDRequest
from forwarder.errors import ConfigError
from forwarder.mesh.identity import identity, serve_workloads
from forwarder.rpc.workload_pb2_grpc import SpiffeWorkloadAPIStub
from forwarder.security import Authority
from tests.support.certificates import verifies
from tests.support.clock import TurnedClock
from tests.support.domain import until
from tests.support.programs import running

HOUR = 3600.0
FWD, NSC = "spiffe://example.org/fwd", "spiffe://example.org/nsc"
HEADER = (("workload.spiffe.io", "true"),)


@pytest.fixture
def sockets(tmp_path: Path) -> dict[str, str]:
    return {FWD: f"unix://{tmp_path}/fwd.sock", NSC: f"unix://{tmp_path}/nsc.sock"}


async def test_each_socket_is_a_workload_of_its_own(sockets: dict[str, str]) -> None:
    authority = Authority("example.org")
    async with (
        serve_workloads(authority, sockets),
        identity(sockets[FWD]) as fwd,
        identity(sockets[NSC]) as nsc,
        identity(sockets[NSC]) as again,
    ):
        assert (fwd.svid.identity, nsc.svid.identity) == (FWD, NSC)
        assert nsc.svid == again.svid
        assert fwd.bundles == nsc.bundles == {"example.org": authority.bundle}
        assert verifies(fwd.svid, nsc.bundles["example.org"], authority.clock.now())


async def test_a_folder_for_keys_that_we_make_is_ours_alone_and_one_that_is_there_stays_as_it_is(
    tmp_path: Path,
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o750)
    sockets = {FWD: f"unix://{tmp_path}/run/fwd/api.sock", NSC: f"unix://{shared}/nsc.sock"}
    async with serve_workloads(Authority("example.org"), sockets):
        assert (tmp_path / "run" / "fwd").stat().st_mode & 0o777 == 0o700
        assert shared.stat().st_mode & 0o777 == 0o750


async def test_a_program_follows_renewals_new_roots_and_other_trust_domains(sockets: dict[str, str]) -> None:
    clock = TurnedClock()
    authority = Authority("example.org", svid_lifetime_s=HOUR, root_lifetime_s=6 * HOUR, clock=clock)
    other = Authority("other.org")
    async with serve_workloads(authority, sockets), identity(sockets[FWD]) as fwd:
        first = fwd.svid
        await clock.advance(HOUR / 2)
        await until(lambda: fwd.svid != first)
        assert verifies(fwd.svid, fwd.bundles["example.org"], clock.now())
        authority.federate("other.org", other.bundle)
        await until(lambda: "other.org" in fwd.bundles)
        assert fwd.bundles["other.org"] == other.bundle
        authority.federate("other.org", [])
        await until(lambda: "other.org" not in fwd.bundles)
        await clock.advance(2.5 * HOUR)
        await until(lambda: len(fwd.bundles["example.org"]) == 2)
        authority.rotate()
        await until(lambda: fwd.bundles["example.org"] == authority.bundle)
        assert verifies(fwd.svid, authority.bundle, clock.now())


async def test_a_program_waits_for_the_authority_and_finds_it_again_after_a_restart(
    sockets: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    got = asyncio.Event()
    ended = asyncio.Event()
    held = []

    async def run() -> None:
        async with identity(sockets[FWD]) as fwd:
            held.append(fwd)
            got.set()
            await ended.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(run())
        await until(lambda: "waiting for an SVID" in caplog.text)
        async with serve_workloads(Authority("example.org"), sockets):
            await got.wait()
            first = held[0].svid
        await until(lambda: "the last SVID stays in use" in caplog.text)
        assert held[0].svid == first
        successor = Authority("example.org")
        async with serve_workloads(successor, sockets):
            await until(lambda: held[0].svid != first)
            assert held[0].bundles == {"example.org": successor.bundle}
            ended.set()


async def test_a_caller_who_does_not_show_the_header_is_refused(sockets: dict[str, str]) -> None:
    async with serve_workloads(Authority("example.org"), sockets), grpc.aio.insecure_channel(sockets[FWD]) as channel:
        stub = SpiffeWorkloadAPIStub(channel)
        for metadata in ((), (("workload.spiffe.io", "false"),), HEADER + HEADER):
            for call in (
                stub.FetchX509SVID(X509SVIDRequest(), metadata=metadata),
                stub.FetchX509Bundles(X509BundlesRequest(), metadata=metadata),
            ):
                assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        stream = stub.FetchX509Bundles(X509BundlesRequest(), metadata=HEADER)
        assert list((await stream.read()).bundles) == ["spiffe://example.org"]
        stream.cancel()


@pytest.mark.parametrize("method", ["FetchJWTSVID", "FetchJWTBundles", "ValidateJWTSVID"])
async def test_jwt_svids_are_unimplemented(sockets: dict[str, str], method: str) -> None:
    async with serve_workloads(Authority("example.org"), sockets), grpc.aio.insecure_channel(sockets[FWD]) as channel:
        call = channel.unary_unary(f"/SpiffeWorkloadAPI/{method}")(b"", metadata=HEADER)
        assert await call.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_an_endpoint_that_cannot_be_dialled_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigError, match=r"SPIFFE_ENDPOINT_SOCKET='agent\.sock'"):
        async with identity("agent.sock"):
            pytest.fail("there is an identity")


async def test_two_authorities_started_by_hand_trust_each_other(tmp_path: Path) -> None:
    bundles = {name: tmp_path / f"{name}.pem" for name in ("a.org", "b.org")}
    urls = {name: f"unix://{tmp_path}/{name}.sock" for name in bundles}

    def arguments(own: str, other: str) -> list[str]:
        return [
            *("authority", "--trust-domain", own, "--workloads", f"/fwd={urls[own]}"),
            *("--bundle-file", str(bundles[own]), "--federates-with", f"{other}={bundles[other]}"),
        ]

    with running(*arguments("a.org", "b.org")) as a:
        a.wait_for("b.org.pem is not there yet")
        a.wait_for("serving, ")
        with running(*arguments("b.org", "a.org")) as b:
            b.wait_for("serving, ")
            await until(bundles["b.org"].exists)
            async with identity(urls["a.org"]) as in_a, identity(urls["b.org"]) as in_b:
                assert in_a.svid.identity == "spiffe://a.org/fwd"
                assert in_b.bundles["a.org"] == in_a.bundles["a.org"]
                assert "b.org" not in in_a.bundles
                a.send(signal.SIGHUP)
                await until(lambda: in_a.bundles.get("b.org") == in_b.bundles["b.org"])
        written = x509.load_pem_x509_certificates(bundles["a.org"].read_bytes())
        assert len(written) == 1
        assert a.end() == 0
