"""Resident memory of the forwarder's process, with one kernel vWire that has carried frames.

Beside it, a Python process that has only imported gRPC. Resident counts shared libraries too;
unique is what would be free if the process ended.
"""

import sys

import psutil

from bench.domain import domain
from bench.programs import running, wait_line
from bench.results import Measured
from bench.run import Run

MIB = 1 << 20
ALONE = "python with gRPC imported"


def mib(pid: int) -> tuple[float, float]:
    """Returns resident and unique memory of a process."""
    told = psutil.Process(pid).memory_full_info()
    return told.rss / MIB, told.uss / MIB


def run(run: Run) -> list[Measured]:
    """Makes a domain afresh for each sample."""
    resident: dict[str, list[float]] = {ALONE: []}
    unique: dict[str, list[float]] = {ALONE: []}
    for _ in range(run.times(5, 2)):
        for tree in run.trees:
            with domain(tree=tree, datapath="userspace") as made:
                connection = made.request()
                address = connection.context.ip_context.dst_ip_addrs[0].split("/")[0]
                made.client.run("ping", "-c", "20", "-i", "0.01", address)
                log = made.scratch / "alone.log"
                alone = [sys.executable, "-c", "import grpc.aio; print('ready', flush=True); input()"]
                with running(alone, log) as python:
                    wait_line(python, "ready", log)
                    for name, pid in ((tree.name, made.forwarder.pid), (ALONE, python.pid)):
                        rss, uss = mib(pid)
                        resident.setdefault(name, []).append(rss)
                        unique.setdefault(name, []).append(uss)
                made.close(connection)
    return [
        Measured(id="memory", unit="MiB", samples=resident, baseline=ALONE, further={"unique": unique}),
    ]
