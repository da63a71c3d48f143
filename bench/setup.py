"""vWires set up per second: whole Requests over gRPC, and the data plane alone.

A whole Request is gRPC to the forwarder, its gRPC to the endpoint, two veth pairs made, moved,
named and addressed, two packet sockets and a vWire; beside it, what `ip` takes for the same
interfaces in one batch. The data plane alone is two memif servers and a vWire, with clients that
connect at once.
"""

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.domain import Domain, domain
from bench.programs import compiled, running, wait_line
from bench.results import Row, row
from tests.support.netns import network_namespaces

IN_FLIGHT = 8
GOALS = {"request": "p50 <= 25 ms", "request-rate": ">= 50 /s", "memif": ">= 500 /s"}


def requests(made: Domain, count: int, in_flight: int) -> tuple[float, list[float]]:
    """Makes and closes `count` vWires; returns how long making took, and each Request's milliseconds."""
    took_ms: list[float] = []

    def one(number: int) -> object:
        start = time.monotonic()
        connection = made.request(number)
        took_ms.append(1e3 * (time.monotonic() - start))
        return connection

    with ThreadPoolExecutor(in_flight) as pool:
        start = time.monotonic()
        connections = list(pool.map(one, range(1, count + 1)))
        took_s = time.monotonic() - start
        list(pool.map(made.close, connections))  # type: ignore[arg-type]
    return took_s, took_ms


def interfaces_alone_ms(count: int) -> list[float]:
    """Makes the same interfaces with one `ip -batch` per pair of veths and returns the milliseconds of each."""
    took = []
    with network_namespaces(3) as (node, client, server):
        for number in range(count):
            lines = []
            for end, pod in (("a", client), ("b", server)):
                name = f"{end}{number}"
                lines.append(f"link add our-{name} type veth peer name {name} netns /proc/self/fd/{pod.fd}")
                lines.append(f"link set our-{name} up")
            start = time.monotonic()
            command = node.argv("ip", "-batch", "-")
            fds = (node.fd, client.fd, server.fd)
            subprocess.run(command, input="\n".join(lines), text=True, pass_fds=fds, check=True)
            for end, pod in (("a", client), ("b", server)):
                name = f"{end}{number}"
                batch = f"address add 10.{number // 250}.{number % 250}.1/32 dev {name}\nlink set {name} up\n"
                subprocess.run(pod.argv("ip", "-batch", "-"), input=batch, text=True, pass_fds=(pod.fd,), check=True)
            took.append(1e3 * (time.monotonic() - start))
    return took


def dataplane_rate(count: int) -> float:
    """Sets up `count` memif vWires in a fresh data plane and returns how many per second."""
    with tempfile.TemporaryDirectory(prefix="bench-") as made, contextlib.ExitStack() as stack:
        scratch = Path(made)
        log = scratch / "dataplane.log"
        command = [sys.executable, "-m", "bench.memif_many", str(scratch), str(count)]
        dataplane = stack.enter_context(running(command, log))
        wait_line(dataplane, "ready", log)
        clients_log = scratch / "clients.log"
        clients = stack.enter_context(running([compiled("clients"), str(scratch), str(count)], clients_log))
        assert clients.stdin is not None
        assert dataplane.stdin is not None
        dataplane.stdin.write("go\n")
        dataplane.stdin.flush()
        seconds = float(wait_line(dataplane, "seconds", log).split()[1])
    return count / seconds


def run(*, quick: bool) -> list[Row]:
    """Measures both."""
    count = 40 if quick else 200
    one_by_one: list[float] = []
    rates: list[float] = []
    with domain() as made:
        requests(made, 5, 1)  # warm
        for _ in range(2 if quick else 5):
            one_by_one += requests(made, count // 2, 1)[1]
            took_s, _ = requests(made, count, IN_FLIGHT)
            rates.append(count / took_s)
    alone = interfaces_alone_ms(20 if quick else 60)
    memif = [dataplane_rate(100 if quick else 400) for _ in range(2 if quick else 5)]
    p99 = statistics.quantiles(one_by_one, n=100)[98]
    return [
        row(
            "request-kernel-kernel",
            "ms",
            one_by_one,
            baseline="ip, the interfaces alone",
            baseline_samples=alone,
            goal=GOALS["request"],
            note=f"one at a time; p99 {p99:.1f} ms",
        ),
        row(f"request-rate-{IN_FLIGHT}-in-flight", "1/s", rates, goal=GOALS["request-rate"]),
        row("dataplane-rate-memif-memif", "1/s", memif, goal=GOALS["memif"]),
    ]
