"""The MEMIF mechanism with real sockets: applications in two namespaces, and a vWire between them."""

import asyncio
import contextlib
import os
import socket

from forwarder.api import connection_pb2
from forwarder.api.context import Side
from forwarder.dataplane import Dataplane
from forwarder.mechanisms.memif import MemifMechanism
from tests.support.memif_peer import ClientPeer, Control, ServerPeer, unix_address


def connection(netns, payload="ETHERNET", **parameters):
    status = os.fstat(netns.fd)
    return connection_pb2.Connection(
        id="c-1",
        payload=payload,
        mechanism=connection_pb2.Mechanism(
            cls="LOCAL",
            type="MEMIF",
            parameters={"inodeURL": f"file:///proc/{os.getpid()}/fd/{netns.fd}", **parameters}
            if payload == "IP"
            else {"inodeURL": f"inode://{status.st_dev}/{status.st_ino}", **parameters},
        ),
    )


@contextlib.contextmanager
def held(netns):
    """Keeps a process in the namespace: by its number alone it is found through processes."""
    with netns.process("sleep", "60") as process:
        yield process


async def test_two_applications_exchange_frames_through_a_vwire(two_netns):
    near, far = two_netns
    await _exchange(near, far, "ETHERNET", [os.urandom(size) for size in (60, 1514, 9000)] * 20)


async def test_two_applications_exchange_packets_through_a_vwire(two_netns):
    near, far = two_netns
    packets = [bytes([version]) + os.urandom(size - 1) for version in (0x45, 0x60) for size in (20, 1500, 4000)]
    await _exchange(near, far, "IP", packets * 10)


async def _exchange(near, far, payload, frames):
    mode = int(payload == "IP")
    with held(near), held(far), contextlib.ExitStack() as peers:
        await asyncio.sleep(0.05)  # until nsenter has become sleep
        async with Dataplane() as dataplane:
            mechanism = MemifMechanism(dataplane)
            asked = connection(near, payload)
            answered = connection(far, payload, socketfile="@/endpoint/memif.socket")
            async with (
                mechanism.open(Side.CLIENT, asked) as client,
                mechanism.open(Side.ENDPOINT, answered) as endpoint,
                dataplane.vwire(client.port, endpoint.port),
            ):
                assert not client.port.connected
                server = peers.enter_context(far.call(lambda: ServerPeer("@/endpoint/memif.socket")))
                accepting = asyncio.create_task(asyncio.to_thread(server.accept))
                sock = near.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                sock.connect(unix_address(asked.mechanism.parameters["socketfile"]))
                application = peers.enter_context(await asyncio.to_thread(ClientPeer, Control(sock), mode=mode))
                await accepting
                await asyncio.gather(client.port.wait_connected(), endpoint.port.wait_connected())
                assert server.seen[2] == mode
                for sender, receiver in ((application, server), (server, application)):
                    await asyncio.to_thread(sender.send_all, frames)
                    assert await asyncio.to_thread(receiver.receive_all, len(frames)) == frames
