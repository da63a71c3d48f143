"""A data plane without the rest of vwire, driven line by line: vwires.py [OPTION...].

| command | what it sets up |
| --- | --- |
| `servers FOLDER FROM TO LOG2_RING` | vWires between memif servers FOLDER/N-a and -b, their clients connected |
| `client FOLDER N` | a vWire between a memif server N-a and a memif client of N-b |
| `kernel FROM TO` | vWires between the links aN and bN of its own namespace |
| `mixed LINK ROLE SOCKET` | a vWire between a link of its own namespace and a memif, ROLE being server or client |
| `churn FOLDER COUNT` | COUNT vWires as `servers` does, each removed before the next |

The answer to each is its first word and the seconds it took. It ends at SIGTERM or end of input. It
imports nothing of the bench, so that `forwarder` may be another commit's.
"""

import argparse
import asyncio
import gc
import os
import resource
import signal
import socket
import sys
import time
from contextlib import AsyncExitStack

from forwarder.dataplane import Dataplane, Port
from forwarder.dataplane.spec import KernelPortSpec, MemifPortSpec, Role

IN_FLIGHT = 32
MTU_BYTES = 1500


class Vwires:
    """The commands."""

    def __init__(self, dataplane: Dataplane, stack: AsyncExitStack) -> None:
        self._dataplane, self._stack = dataplane, stack

    async def servers(self, folder: str, first: str, last: str, log2_ring: str) -> None:
        places = asyncio.Semaphore(IN_FLIGHT)

        async def one(number: int) -> None:
            async with places:
                await self._servers(self._stack, folder, number, int(log2_ring))

        async with asyncio.TaskGroup() as group:
            for number in range(int(first), int(last)):
                group.create_task(one(number))

    async def _servers(self, stack: AsyncExitStack, folder: str, number: int, log2_ring: int) -> None:
        specs = [
            MemifPortSpec(role=Role.SERVER, address=f"{folder}/{number}-{end}", log2_ring_size=log2_ring)
            for end in "ab"
        ]
        ports = [await stack.enter_async_context(self._dataplane.memif_port(spec)) for spec in specs]
        await stack.enter_async_context(self._dataplane.vwire(*ports, name=f"memif-{number}"))
        for port in ports:
            await port.wait_connected()

    async def client(self, folder: str, number: str) -> None:
        specs = [
            MemifPortSpec(role=role, address=f"{folder}/{number}-{end}", log2_ring_size=8)
            for role, end in ((Role.SERVER, "a"), (Role.CLIENT, "b"))
        ]
        ports = [await self._stack.enter_async_context(self._dataplane.memif_port(spec)) for spec in specs]
        await self._stack.enter_async_context(self._dataplane.vwire(*ports, name=f"memif-{number}"))

    async def kernel(self, first: str, last: str) -> None:
        for number in range(int(first), int(last)):
            ports = [await self._link(f"{end}{number}") for end in "ab"]
            await self._stack.enter_async_context(self._dataplane.vwire(*ports, name=f"kernel-{number}"))

    async def _link(self, name: str) -> Port:
        spec = KernelPortSpec(name=name, ifindex=socket.if_nametoindex(name), mtu_bytes=MTU_BYTES)
        return await self._stack.enter_async_context(self._dataplane.kernel_port(spec))

    async def mixed(self, link: str, role: str, address: str) -> None:
        spec = MemifPortSpec(role=Role(role), address=address)
        ports = [await self._link(link), await self._stack.enter_async_context(self._dataplane.memif_port(spec))]
        await self._stack.enter_async_context(self._dataplane.vwire(*ports, name=link))

    async def churn(self, folder: str, count: str) -> None:
        for number in range(int(count)):
            async with AsyncExitStack() as stack:
                await self._servers(stack, folder, number, 8)


async def main() -> None:
    """Runs until told to end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cpu", type=int, help="CPU of the worker")
    parser.add_argument("--control-cpu", type=int, help="CPU of everything else")
    parser.add_argument("--stall-limit-ms", type=int, default=20, help="how long frames wait in a memif for room")
    parser.add_argument("--poll-window-us", type=int, default=50, help="how long a worker polls before it sleeps")
    arguments = parser.parse_args()
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    cpus = [] if arguments.cpu is None else [arguments.cpu]
    plane = Dataplane(
        workers=1, cpus=cpus, poll_window_us=arguments.poll_window_us, stall_limit_ms=arguments.stall_limit_ms
    )
    async with plane as dataplane, AsyncExitStack() as stack:
        if arguments.control_cpu is not None:  # not before: the worker could not leave it again
            os.sched_setaffinity(0, {arguments.control_cpu})
        vwires = Vwires(dataplane, stack)
        print("ready", flush=True)
        while words := (await lines.readline()).decode().split():
            start = time.monotonic()
            await getattr(vwires, words[0])(*words[1:])
            print(words[0], time.monotonic() - start, flush=True)


if __name__ == "__main__":
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.freeze()  # as every program of ours does
    try:
        asyncio.run(main())
    except asyncio.CancelledError:
        sys.exit(0)
