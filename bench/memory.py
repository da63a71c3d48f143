"""Resident memory of the forwarder's process, with one kernel vWire that has carried frames.

Beside it, a Python process that has only imported gRPC. Resident counts shared libraries too;
unique is what would be free if the process ended.
"""

import sys

import psutil

from bench.domain import domain
from bench.programs import running
from bench.results import Row, row

MIB = 1 << 20
GOAL = "< 80 MiB"


def _memory(pid: int) -> tuple[float, float]:
    told = psutil.Process(pid).memory_full_info()
    return told.rss / MIB, told.uss / MIB


def run(*, quick: bool) -> list[Row]:
    """Makes a domain afresh for each sample."""
    resident, unique, alone = [], [], []
    for _ in range(2 if quick else 5):
        with domain() as made:
            connection = made.request()
            address = connection.context.ip_context.dst_ip_addrs[0].split("/")[0]
            made.client.run("ping", "-c", "20", "-i", "0.01", address)
            rss, uss = _memory(made.forwarder.pid)
            resident.append(rss)
            unique.append(uss)
            with running(
                [sys.executable, "-c", "import grpc.aio; print('ready', flush=True); input()"],
                made.scratch / "alone.log",
            ) as python:
                assert python.stdout is not None
                python.stdout.readline()
                alone.append(_memory(python.pid)[0])
            made.close(connection)
    baseline = "python with gRPC imported"
    return [
        row("resident-memory-one-vwire", "MiB", resident, baseline=baseline, baseline_samples=alone, goal=GOAL),
        row("unique-memory-one-vwire", "MiB", unique),
    ]
