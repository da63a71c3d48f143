"""Links of other namespaces, seen from ours: their counters, and that they go."""

import asyncio
import socket
import subprocess

import pytest
import pytest_asyncio
from pyroute2.netlink import rtnl

from forwarder.netlink import Channel, nsid, wire
from forwarder.netlink.remote_links import RemoteLinks
from forwarder.netns import Netns
from tests.support.netns import network_namespace, veth_pair


@pytest.fixture
def pair(two_netns):
    near, far = two_netns
    veth_pair(near, far, addresses=(["10.0.0.1/30"], ["10.0.0.2/30"]))
    with Channel() as channel:
        numbers = [nsid.assign(channel, netns.fd) for netns in two_netns]
        assert numbers == [nsid.assign(channel, netns.fd) for netns in two_netns], "one number each, for good"
    return [
        (number, netns.ifindex(name))
        for number, netns, name in zip(numbers, two_netns, ("veth-a", "veth-b"), strict=True)
    ]


@pytest_asyncio.fixture
async def links():
    made = RemoteLinks()
    yield made
    made.close()


async def heard(told, count):
    async with asyncio.timeout(10):
        while len(told) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_counters_are_those_that_the_namespaces_have(two_netns, pair, links):
    two_netns[0].run("ping", "-c", "5", "-i", "0.01", "10.0.0.2")
    near, far, nobody = links.statistics(*pair, (pair[0][0], 99999))
    assert nobody is None
    told = two_netns[0].json("ip", "-j", "-s", "link", "show", "veth-a")[0]["stats64"]
    assert (near.sent_frames, near.sent_bytes) == (told["tx"]["packets"], told["tx"]["bytes"])
    assert near.sent_frames == far.received_frames >= 5


@pytest.mark.parametrize("which", ["veth-a", "veth-b"])
async def test_whichever_end_is_deleted_both_are_told_once(two_netns, pair, links, which):
    told = []
    links.watch({place: lambda why, place=place: told.append((place, why)) for place in pair})
    two_netns[which == "veth-b"].run("ip", "link", "delete", which)
    await heard(told, 2)
    assert sorted(place for place, _ in told) == sorted(pair)


async def test_a_namespace_that_goes_takes_its_links_along_although_they_are_watched(links):
    told = []
    with network_namespace() as kept:
        with network_namespace() as going:
            veth_pair(kept, going)
            with Channel() as channel:
                place = nsid.assign(channel, going.fd), going.ifindex("veth-b")
                other = nsid.assign(channel, kept.fd), kept.ifindex("veth-a")
            links.watch({place: told.append, other: told.append})
        await heard(told, 2)


async def test_a_link_that_is_not_there_is_told_at_once_and_what_is_forgotten_is_not_told(two_netns, pair, links):
    told = []
    links.watch({(pair[0][0], 99999): told.append})
    assert told == ["it is not there"]
    links.watch(dict.fromkeys(pair, told.append))
    links.forget(pair[0])
    two_netns[0].run("ip", "link", "delete", "veth-a")
    await heard(told, 2)
    await asyncio.sleep(0.05)
    assert len(told) == 2


def _own(*command):
    subprocess.run(["ip", "link", *command], check=True)


async def test_links_of_our_own_namespace_are_watched_too(links):
    with Channel() as channel, Netns.current() as own:
        number = nsid.assign(channel, own.fileno())
    _own("add", "own0", "type", "veth", "peer", "name", "own1")
    told = []
    links.watch({(number, socket.if_nametoindex("own0")): told.append})
    _own("delete", "own0")
    await heard(told, 1)


def test_of_all_that_is_multicast_only_what_is_asked_for_is_heard():
    group, end = 1, "own2"
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        wire.hear_only(sock, (rtnl.RTM_DELNSID, rtnl.RTM_DELLINK))
        sock.bind((0, 1 << (group - 1)))
        _own("add", end, "type", "veth", "peer", "name", "own3")
        _own("set", end, "up")
        index = socket.if_nametoindex(end)
        _own("delete", end)
        sock.settimeout(10)
        heard, gone = [], []
        while index not in gone:
            data = sock.recv(1 << 16)
            for piece in wire.pieces(data):
                heard.append(piece.kind)
                gone.append(wire.link_index(piece.body(data)))
    assert set(heard) == {rtnl.RTM_DELLINK}
