"""Very many vWires in one process, each with two ends to send from.

    python -m tests.support.many_vwires 2000     (in a network namespace of its own, as root)

makes 2,000, half of them between memif and a kernel link, a quarter of each kind alone; passes a
frame each way on every one, and tells what they take while nothing moves.
"""

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

import psutil

from forwarder.cli.file_limit import raise_file_limit
from forwarder.dataplane import Dataplane, KernelPortSpec, MemifPortSpec, Port, PortIO, Role
from tests.support.netns import Netns, network_namespace
from tests.support.packet_socket import packet_socket

AT_ONCE = 32
IDLE_S = 20
HEADER = bytes.fromhex("02000000000b 02000000000a 88b5")
KINDS = ("memif-kernel", "memif-memif", "memif-kernel", "kernel-kernel")

Put = Callable[[bytes], None]
Take = Callable[[], bytes]
Open = Callable[[], AbstractContextManager[tuple[Put, Take]]]
"""Opens the far side of one end, to send and to receive there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Many:
    """What was made."""

    dataplane: Dataplane
    ends: list[tuple[Open, Open]]
    """Of each vWire."""

    async def carry_on_each(self) -> None:
        """Sends a frame each way on every vWire, several at a time: closing a packet socket takes 25 ms."""
        with ThreadPoolExecutor(AT_ONCE) as threads:
            loop = asyncio.get_running_loop()
            await asyncio.gather(*(loop.run_in_executor(threads, self.carry, n) for n in range(len(self.ends))))

    def carry(self, number: int) -> None:
        """Sends a frame each way on one vWire and checks that it comes out there, as it was."""
        there, back = (HEADER + direction + number.to_bytes(4, "big") * 11 for direction in (b">>", b"<<"))
        a, b = self.ends[number]
        with a() as (put_a, take_a), b() as (put_b, take_b):
            put_a(there)
            assert take_b() == there
            put_b(back)
            assert take_a() == back


@asynccontextmanager
async def many_vwires(count: int) -> AsyncIterator[Many]:
    """Makes `count` vWires, of all kinds in turn; the applications' memif ports are in a data plane of their own."""
    kinds = [KINDS[number % len(KINDS)] for number in range(count)]
    links = sum(kind.count("kernel") for kind in kinds)
    with network_namespace() as hub:
        _make_links(hub, links)
        indices = {name: told["ifindex"] for name, told in hub.links().items()}
        async with Dataplane() as dataplane, Dataplane() as applications, AsyncExitStack() as stack:
            links_left = iter(range(links))
            stacks: list[AsyncExitStack] = []
            servers: list[tuple[Port, MemifPortSpec]] = []
            far: dict[Port, Open] = {}

            async def port(stack: AsyncExitStack, kind: str, name: str) -> Port:
                if kind == "memif":
                    spec = MemifPortSpec(role=Role.SERVER, address=f"@/many/{name}", log2_ring_size=8)
                    made = await stack.enter_async_context(dataplane.memif_port(spec))
                    servers.append((made, spec))
                    return made
                link = next(links_left)
                spec = KernelPortSpec(name=f"our{link}", ifindex=indices[f"our{link}"], netns=hub.fd)
                made = await stack.enter_async_context(dataplane.kernel_port(spec))
                far[made] = lambda: _kernel_end(hub, f"far{link}")
                return made

            async def one(number: int) -> tuple[Port, Port]:
                async with places:
                    kind_a, kind_b = kinds[number].split("-")
                    own = await stack.enter_async_context(AsyncExitStack())
                    stacks.append(own)
                    a, b = await port(own, kind_a, f"{number}a"), await port(own, kind_b, f"{number}b")
                    await own.enter_async_context(dataplane.vwire(a, b, name=str(number)))
                    return a, b

            places = asyncio.Semaphore(AT_ONCE)
            wires = await asyncio.gather(*map(one, range(count)))
            for server, spec in servers:
                client = MemifPortSpec(role=Role.CLIENT, address=spec.address, log2_ring_size=8)
                made = await stack.enter_async_context(applications.memif_port(client))
                far[server] = lambda made=made: _memif_end(made)
                await asyncio.gather(server.wait_connected(), made.wait_connected())
            yield Many(dataplane=dataplane, ends=[(far[a], far[b]) for a, b in wires])
            # Side by side: the kernel takes 25 ms to close a packet socket.
            await asyncio.gather(*(own.aclose() for own in stacks))


def _make_links(hub: Netns, count: int) -> None:
    """Makes pairs `our0` and `far0`, ..., all of them up and quiet."""
    hub.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
    lines = []
    for number in range(count):
        lines.append(f"link add our{number} type veth peer name far{number}")
        lines += [f"link set {end}{number} up arp off" for end in ("our", "far")]
    subprocess.run(hub.argv("ip", "-batch", "-"), input="\n".join(lines), text=True, pass_fds=[hub.fd], check=True)


@contextmanager
def _memif_end(port: Port) -> Iterator[tuple[Put, Take]]:
    with PortIO(port) as io:

        def put(frame: bytes) -> None:
            assert io.write([frame]) == 1

        def take() -> bytes:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                if got := io.read():
                    return got[0]
                time.sleep(0.0002)
            raise TimeoutError(f"nothing came out of {port!r}")

        yield put, take


@contextmanager
def _kernel_end(hub: Netns, link: str) -> Iterator[tuple[Put, Take]]:
    with packet_socket(hub, link) as sock:
        yield sock.send, lambda: sock.receive(10)[0]


async def main(count: int) -> None:
    """Makes them, uses them, watches them idle, and tells."""
    process = psutil.Process()
    start = time.monotonic()
    async with many_vwires(count) as many:
        made = time.monotonic()
        await many.carry_on_each()
        print(
            f"{count} vWires made in {made - start:.1f} s, a frame each way on each in {time.monotonic() - made:.1f} s"
        )
        await asyncio.sleep(3)  # whatever was polled or looked at again has gone to sleep
        seconds, (before,) = -time.monotonic(), many.dataplane.statistics().workers
        processor = -time.process_time()
        await asyncio.sleep(IDLE_S)
        share = 100 * (processor + time.process_time()) / (seconds + time.monotonic())
        (after,) = many.dataplane.statistics().workers
        print(
            f"idle: {share:.3f} % of a CPU, {after.wakes - before.wakes} wake-ups of the worker;"
            f" the whole process, applications included: {len(os.listdir('/proc/self/fd'))} descriptors,"
            f" {len(process.memory_maps(grouped=False))} mappings, {process.memory_info().rss >> 20} MiB resident"
        )
        start = time.monotonic()
    print(f"closed in {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    raise_file_limit()
    asyncio.run(main(int(sys.argv[1])))
