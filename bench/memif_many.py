"""Many memif vWires in one data plane, as the set-up bench drives it: python -m bench.memif_many FOLDER COUNT.

Says "ready", waits for a line, and then sets the vWires up, so many at a time, each until both of
its clients are connected.
"""

import asyncio
import resource
import sys
import time
from contextlib import AsyncExitStack

from forwarder.dataplane import Dataplane
from forwarder.dataplane.spec import MemifPortSpec, Role

IN_FLIGHT = 32


async def main(folder: str, count: int) -> None:
    """Sets up all vWires and prints the seconds it took."""
    async with Dataplane(workers=1) as dataplane, AsyncExitStack() as stack:
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        places = asyncio.Semaphore(IN_FLIGHT)

        async def one(number: int) -> None:
            async with places:
                specs = [
                    MemifPortSpec(role=Role.SERVER, address=f"{folder}/{number}-{end}", log2_ring_size=8)
                    for end in "ab"
                ]
                ports = [await stack.enter_async_context(dataplane.memif_port(spec)) for spec in specs]
                await stack.enter_async_context(dataplane.vwire(*ports))
                for port in ports:
                    await port.wait_connected()

        start = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(one(number))
        print("seconds", time.monotonic() - start, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


if __name__ == "__main__":
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
