"""A vWire lives as long as its client: refreshed without a lost frame, gone soon after the client was killed.

VWIRE_REFRESH_S, 7 by default, is for how many seconds the refreshing client is watched.
"""

import asyncio
import os
import signal
import socket
import struct
import threading
import time

from forwarder.api.nsurl import NetworkServiceURL
from forwarder.clock import SystemClock
from forwarder.mesh.client import Client
from forwarder.mesh.endpoint import unsigned_tokens
from tests.support.domain import SERVICE, domain, links, pod, until
from tests.support.netns import Netns as Shell
from tests.support.programs import running

LIFETIME_S = 3.0
REFRESH_S = float(os.environ.get("VWIRE_REFRESH_S", "7"))
PORT = 7


def probe(source: Shell, sink: Shell, address: str, enough: threading.Event) -> tuple[int, list[int]]:
    """Sends a numbered datagram each millisecond; returns how many were sent and the numbers that arrived, in order."""
    with (
        source.socket(socket.AF_INET, socket.SOCK_DGRAM) as out,
        sink.socket(socket.AF_INET, socket.SOCK_DGRAM) as into,
    ):
        into.bind((address, PORT))
        into.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        into.settimeout(2)
        sent = 0
        arrived: list[int] = []
        while not enough.is_set():
            out.sendto(struct.pack("!I", sent), (address, PORT))
            sent += 1
            time.sleep(0.001)
            if sent - len(arrived) > 100:
                arrived.append(struct.unpack("!I", into.recv(64))[0])
        while len(arrived) < sent:
            arrived.append(struct.unpack("!I", into.recv(64))[0])
        return sent, arrived


def identity(shell: Shell, name: str) -> dict[str, object]:
    """What must not change: index, name, hardware address, addresses."""
    link = shell.links()[name]
    addresses = sorted((each["local"], each["prefixlen"]) for each in link["addr_info"])
    return {"ifindex": link["ifindex"], "mac": link["address"], "mtu": link["mtu"], "addresses": addresses}


async def test_refreshes_over_many_lifetimes_keep_the_interface_and_lose_no_frame(tmp_path):
    """C-41: a lifetime of 3 s, and a probe each way all the time."""
    async with domain(tmp_path) as mesh:
        with pod() as netns:
            client = Client(
                name="nsc",
                connect_to=mesh.url,
                netns=netns,
                request_timeout_s=1,  # a hop closes this long before the lifetime ends
                tokens=unsigned_tokens("nsc", SystemClock(), LIFETIME_S),
            )
            async with client.vwire(NetworkServiceURL.parse(f"kernel://{SERVICE}/nsm-1"), 0) as vwire:
                shell, far = Shell(netns.fileno()), mesh.endpoint_pod
                (far_name,) = links(mesh.endpoint_netns)
                before = identity(shell, "nsm-1"), identity(far, far_name)
                own, peer = (each[0].partition("/")[0] for each in (vwire.addresses, vwire.peers))
                enough = threading.Event()
                probes = asyncio.gather(
                    asyncio.to_thread(probe, shell, far, peer, enough),
                    asyncio.to_thread(probe, far, shell, own, enough),
                )
                try:
                    await asyncio.sleep(REFRESH_S)
                finally:
                    enough.set()
                for sent, arrived in await probes:
                    assert arrived == list(range(sent))
                assert (identity(shell, "nsm-1"), identity(far, far_name)) == before
                statistics = mesh.forwarder.statistics()
                assert statistics.requests > REFRESH_S / LIFETIME_S
                assert (statistics.failed_requests, statistics.expired, statistics.went_down) == (0, 0, 0)


async def test_a_client_that_is_killed_leaves_nothing_when_its_lifetime_ends(tmp_path):
    """C-42: `vwire client` gets SIGKILL; its pod stays."""
    async with domain(tmp_path) as mesh:
        with pod() as netns:
            path = f"/proc/{os.getpid()}/fd/{netns.fileno()}"
            options = ("--insecure", "--connect-to", mesh.url, "--netns", path, "--max-token-lifetime", "3s")
            urls = (f"kernel://{SERVICE}/nsm-1", f"memif://{SERVICE}")
            with running("client", *options, "--request-timeout", "1s", *urls) as client:
                await asyncio.to_thread(client.wait_for, "2 vWires are up")
                assert links(netns) == ["nsm-1"]
                client.send(signal.SIGKILL)
                await until(lambda: links(netns) == links(mesh.endpoint_netns) == [])
                await until(lambda: len(mesh.endpoint) == 0)
                assert mesh.forwarder.statistics().connections == ()
                assert mesh.forwarder.statistics().expired == 2
