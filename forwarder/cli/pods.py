"""Pods of a local mesh: named network namespaces, and the programs that run in them."""

import asyncio
import logging
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from forwarder.cli.remains import MARK
from forwarder.netlink import link
from forwarder.netlink.channel import Channel
from forwarder.netns import Netns, remove_name, run_in

LAUNCHER = str(Path(__file__).with_name("launch.py"))
PACKAGE = Path(__file__).parents[1]
IFF_UP = 1
OUTPUT_BYTES = 64 * 1024
"""Most of a program's output that is kept."""
NOT_FOUND = 127
"""Exit status of a program that cannot be started."""
PATIENCE_S = 2.0
"""How long a program may take to end on SIGTERM."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a program ended."""

    status: int
    output: str
    """stdout and stderr together."""


class Pod:
    """One namespace of a mesh."""

    def __init__(self, mesh: str, name: str, namespace: str, netns: Netns, directory: str) -> None:
        self.mesh = mesh
        self.name = name
        self.namespace = namespace
        """Its name for `ip netns exec`."""
        self.netns = netns
        self._directory = directory

    async def run(self, command: Sequence[str], *, timeout_s: float) -> Outcome:
        """Runs a program to its end. One that takes longer than `timeout_s` is killed; status -1."""
        async with self._launched(command, asyncio.subprocess.PIPE) as process:
            try:
                async with asyncio.timeout(timeout_s):
                    output, _ = await process.communicate()
            except TimeoutError:
                return Outcome(status=-1, output=f"not done after {timeout_s:g} s")
            return Outcome(
                status=process.returncode or 0, output=output[-OUTPUT_BYTES:].decode(errors="replace").strip()
            )

    @asynccontextmanager
    async def running(self, command: Sequence[str]) -> AsyncIterator[asyncio.subprocess.Process]:
        """Runs a program for as long as the context lasts; its output goes nowhere."""
        async with self._launched(command, asyncio.subprocess.DEVNULL) as process:
            yield process

    @asynccontextmanager
    async def _launched(self, command: Sequence[str], output: int) -> AsyncIterator[asyncio.subprocess.Process]:
        netns = self.netns.fileno()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", LAUNCHER, str(netns), str(os.getpid()), *own_command(command)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=(netns,),
            cwd=self._directory,
            env={**os.environ, MARK: self.mesh, "PYTHONUNBUFFERED": "1", "PYTHONPATH": _python_path()},
            # A Ctrl-C at the terminal is for us; we then end our programs.
            start_new_session=True,
        )
        try:
            yield process
        finally:
            await _ended(process)


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Ends a program: gently, then not; returns when it is gone."""
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await process.wait()
        except TimeoutError:
            process.kill()
        except asyncio.CancelledError:
            process.kill()
            raise
    await process.wait()


def own_command(command: Sequence[str]) -> list[str]:
    """Returns the command line of a program; `vwire` and `python3` are the ones that run now."""
    if command[0] == "vwire":
        return [sys.executable, "-m", "forwarder", *command[1:]]
    if command[0] == "python3":
        return [sys.executable, *command[1:]]
    return list(command)


def _python_path() -> str:
    """Returns where a child finds this package, wherever it was started from."""
    return os.pathsep.join(filter(None, (str(PACKAGE.parent), os.environ.get("PYTHONPATH", ""))))


def installed(command: Sequence[str]) -> bool:
    """Says whether the program of a command line can be found."""
    return shutil.which(own_command(command)[0]) is not None


@asynccontextmanager
async def pod(mesh: str, name: str, namespace: str, directory: str) -> AsyncIterator[Pod]:
    """Makes a namespace with a name, its loopback up, and takes both away on leaving.

    Raises NetlinkError when the name is taken or the privilege is missing.
    """
    with named_namespace(namespace) as netns:
        await run_in(netns, lambda: set_loopback_up(namespace))
        yield Pod(mesh, name, namespace, netns, directory)


@contextmanager
def named_namespace(namespace: str) -> Iterator[Netns]:
    """Makes a namespace with a name."""
    with Netns.create_named(namespace) as netns:
        try:
            yield netns
        finally:
            remove_name(namespace)


def set_loopback_up(namespace: str) -> None:
    """Switches the loopback on in the calling thread's namespace, where programs expect it."""
    with Channel(f"network namespace {namespace}") as channel:
        channel.execute([link.set_flags("lo", on=IFF_UP)])
