"""A whole Request, with DPDK's testpmd as the application at one end of the vWire.

client -- Request --> forwarder -- Request --> endpoint       gRPC over unix sockets
application <-- memif --> forwarder's vWire <-- memif --> application
"""

import asyncio
import contextlib
import os
import random
import socket
import time

from forwarder.api import constants
from forwarder.api.mechanisms import Memif
from forwarder.api.nsurl import NetworkServiceURL
from forwarder.dataplane import Dataplane
from forwarder.mechanisms.memif import MemifMechanism
from forwarder.mesh.client import Client
from forwarder.mesh.endpoint import Endpoint
from forwarder.netns import Netns
from forwarder.rpc import monitor_connection, network_service, serve
from forwarder.service import ConfiguredNextHops, Forwarder
from tests.support.memif_peer import ClientPeer, Control, ServerPeer, unix_address
from tests.support.testpmd import running_testpmd

ENDPOINT_SOCKET = "@/endpoint/memif.sock"


def frames(count):
    rng = random.Random(3)
    sizes = (60, 64, 1514, 2048, 4096, 9000)
    return [rng.randbytes(12) + b"\x88\xb5" + rng.randbytes(sizes[n % len(sizes)] - 14) for n in range(count)]


def listens_in(netns):
    """Endpoint extension: the application listens at a known name in `netns`."""

    @contextlib.asynccontextmanager
    async def extension(connection):
        view = Memif(connection.mechanism)
        status = os.fstat(netns.fd)
        view.inode_url, view.socket_file = f"inode://{status.st_dev}/{status.st_ino}", ENDPOINT_SOCKET
        yield None

    return extension


@contextlib.asynccontextmanager
async def vwire_between(near, far, directory):
    """Asks for a vWire from `near` to the endpoint in `far`; yields it and the data plane that carries it."""
    endpoint = Endpoint(name="nse", services=["echo"], mechanisms={"MEMIF": listens_in(far)})
    endpoint_url, url = f"unix://{directory}/nse.sock", f"unix://{directory}/forwarder.sock"
    async with (
        Dataplane(stall_limit_ms=10_000) as dataplane,  # testpmd posts its buffers when it gets a CPU
        endpoint,
        serve([network_service(endpoint), monitor_connection(endpoint)], [endpoint_url]),
        Forwarder(
            name="forwarder",
            mechanisms={constants.MEMIF: MemifMechanism(dataplane)},
            vwires=dataplane,
            next_hops=ConfiguredNextHops(default=endpoint_url),
            default_payload=constants.ETHERNET,
        ) as forwarder,
        serve(forwarder.services(), [url]),
    ):
        # Namespaces are found through the processes in them.
        with near.process("sleep", "60"), far.process("sleep", "60"), Netns.at_path(near.path) as netns:
            await asyncio.to_thread(until_inside, near)
            await asyncio.to_thread(until_inside, far)
            client = Client(name="nsc", connect_to=url, netns=netns)
            async with client.vwire(NetworkServiceURL.parse("memif://echo"), 0) as vwire:
                yield vwire, dataplane


def until_inside(netns):
    """Waits until some process is in the namespace."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if entry.isdigit() and os.stat(f"/proc/{entry}/ns/net").st_ino == netns.inode:
                    return
        time.sleep(0.01)
    raise AssertionError("nobody entered the namespace")


@contextlib.asynccontextmanager
async def started(vdev, netns):
    with contextlib.ExitStack() as stack:
        running = await asyncio.to_thread(stack.enter_context, running_testpmd(vdev, netns=netns))
        try:
            yield running
        finally:
            await asyncio.to_thread(stack.close)


async def echoed(peer, sent):
    got = await asyncio.to_thread(peer.exchange, sent, 8.0, 64)
    assert len(got) == len(sent)
    assert got == sent


async def test_memif_to_memif_with_a_dpdk_endpoint(two_netns, tmp_path):
    near, far = two_netns
    async with (
        started(f"role=server,socket={ENDPOINT_SOCKET[1:]}", far) as running,
        vwire_between(near, far, tmp_path) as (vwire, dataplane),
    ):
        sock = near.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(unix_address(vwire.socket))
        with await asyncio.to_thread(ClientPeer, Control(sock)) as application:
            await asyncio.to_thread(running.wait_link)
            await echoed(application, frames(300))
        (statistics,) = dataplane.statistics().vwires
        assert statistics.a_to_b.in_frames == statistics.a_to_b.out_frames == 300
        await asyncio.to_thread(running.command, "stop")
    assert dataplane.statistics().vwires == ()


async def test_memif_to_memif_with_a_dpdk_client(two_netns, tmp_path):
    near, far = two_netns
    server = far.call(lambda: ServerPeer(ENDPOINT_SOCKET))
    with server:
        accepting = asyncio.create_task(asyncio.to_thread(server.accept, 20.0))
        async with vwire_between(near, far, tmp_path) as (vwire, _):
            assert vwire.socket.startswith("@/")
            async with started(f"role=client,socket={vwire.socket[1:]}", near) as running:
                await accepting
                await asyncio.to_thread(running.wait_link)
                await echoed(server, frames(300))
                await asyncio.to_thread(running.command, "stop")
