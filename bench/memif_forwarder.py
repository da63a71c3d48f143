"""vwire's data plane alone, as the memif bench drives it: two memif servers and a vWire.

python -m bench.memif_forwarder CPU SOCKET SOCKET
"""

import asyncio
import contextlib
import os
import signal
import sys

from forwarder.dataplane import Dataplane
from forwarder.dataplane.spec import MemifPortSpec, Role


async def main(cpu: int, sockets: list[str]) -> None:
    """Runs until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with contextlib.AsyncExitStack() as stack:
        dataplane = await stack.enter_async_context(Dataplane(workers=1, cpus=[cpu]))
        ports = [
            await stack.enter_async_context(dataplane.memif_port(MemifPortSpec(role=Role.SERVER, address=socket)))
            for socket in sockets
        ]
        await stack.enter_async_context(dataplane.vwire(*ports))
        await ended.wait()


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[1])})
    asyncio.run(main(int(sys.argv[1]), sys.argv[2:]))
