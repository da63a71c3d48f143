"""No vWire's frames are seen on another."""

import asyncio
import socket

import pytest

from tests.support.domain import domain, links, ping, pod
from tests.support.netns import Netns as Shell

ETH_P_ALL = 3
MARK = b"vwire-one"


def sniffer(shell: Shell, interface: str) -> socket.socket:
    """Sees every frame of an interface."""
    opened = shell.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    opened.bind((interface, ETH_P_ALL))
    opened.setblocking(False)
    return opened


def marked(opened: socket.socket) -> int:
    """Counts the frames seen so far that carry the mark."""
    count = 0
    while True:
        try:
            count += MARK in opened.recv(65536)
        except BlockingIOError:
            return count


@pytest.mark.parametrize("datapath", ["userspace", "auto"])
async def test_frames_of_one_vwire_reach_only_its_own_two_ends(tmp_path, datapath):
    async with domain(tmp_path, datapath=datapath) as mesh:
        with pod() as one, pod() as two:
            async with mesh.vwire(one, name="one", interface="nsm-1") as first:
                (endpoint_one,) = links(mesh.endpoint_netns)
                async with mesh.vwire(two, name="two", interface="nsm-1"):
                    (endpoint_two,) = (each for each in links(mesh.endpoint_netns) if each != endpoint_one)
                    with (
                        sniffer(mesh.endpoint_pod, endpoint_one) as own,
                        sniffer(mesh.endpoint_pod, endpoint_two) as others_endpoint,
                        sniffer(Shell(two.fileno()), "nsm-1") as others_client,
                    ):
                        assert await ping(one, first.peers[0], count=3) == 3
                        # A unicast, a broadcast that a switch would flood, and an unknown neighbour's.
                        for address in (first.peers[0].partition("/")[0], "255.255.255.255"):
                            await asyncio.to_thread(_send_marked, Shell(one.fileno()), address)
                        async with asyncio.timeout(10):
                            seen = marked(own)
                            while seen < 2:
                                await asyncio.sleep(0.01)
                                seen += marked(own)
                        assert marked(others_endpoint) == 0
                        assert marked(others_client) == 0


def _send_marked(shell: Shell, address: str) -> None:
    with shell.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"nsm-1")
        sender.sendto(MARK * 8, (address, 9))
