"""A whole Request over gRPC with kernel interfaces at both sides, and how many per second.

gRPC to the forwarder, its gRPC to the endpoint, interfaces made, moved, named and addressed, and a
vWire over whatever datapath the forwarder chooses. Beside it what grpcio alone takes to echo the
same Request between two processes. One at a time for the milliseconds, eight at a time for the rate.
"""

import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc

from bench.domain import Domain, asked, domain
from bench.programs import running, wait_line
from bench.results import Measured
from bench.run import Run, in_turn
from bench.trees import THIS
from forwarder.rpc import networkservice_pb2_grpc

IN_FLIGHT = 8
ECHO = "grpcio echo"


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
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        list(pool.map(made.close, connections))  # type: ignore[arg-type]
    return took_s, took_ms


def echoes(stub: networkservice_pb2_grpc.NetworkServiceStub, count: int) -> list[float]:
    """Sends `count` Requests to the echo, one at a time; returns each one's milliseconds."""
    took_ms = []
    for number in range(1, count + 1):
        request = asked(number, "/proc/self/ns/net")
        start = time.monotonic()
        stub.Request(request, timeout=15)
        took_ms.append(1e3 * (time.monotonic() - start))
    return took_ms


def run(run: Run) -> list[Measured]:
    """Alternates; a sample is the median, p99 or rate of one round."""
    count = run.times(40, 25)
    p50: dict[str, list[float]] = {ECHO: []}
    p99: dict[str, list[float]] = {ECHO: []}
    rates: dict[str, list[float]] = {}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        log = scratch / "echo.log"
        command = [sys.executable, "-m", "bench.echo", str(scratch / "echo.sock")]
        echo = stack.enter_context(running(command, log, env=THIS.environment()))
        wait_line(echo, "ready", log)
        channel = stack.enter_context(grpc.insecure_channel(f"unix://{scratch / 'echo.sock'}"))
        stub = networkservice_pb2_grpc.NetworkServiceStub(channel)
        domains = {tree.name: stack.enter_context(domain(tree=tree)) for tree in run.trees}
        echoes(stub, 20)  # warm
        for made in domains.values():
            requests(made, 5, 1)
        for turn in range(run.times(7, 3)):
            for name in in_turn([*domains, ECHO], turn):
                if name == ECHO:
                    took = echoes(stub, 4 * count)
                else:
                    _, took = requests(domains[name], count, 1)
                    seconds, _ = requests(domains[name], 2 * count, IN_FLIGHT)
                    rates.setdefault(name, []).append(2 * count / seconds)
                p50.setdefault(name, []).append(statistics.median(took))
                p99.setdefault(name, []).append(statistics.quantiles(took, n=100)[98])
    return [
        Measured(
            id="request-kernel",
            unit="ms p50",
            samples=p50,
            baseline=ECHO,
            further={"p99": p99, "requests_per_s": rates},
            note=f"one at a time; requests_per_s with {IN_FLIGHT} in flight",
        )
    ]
