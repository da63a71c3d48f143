"""TCP from kernel to kernel through vwire's packet loop, beside a direct veth pair and the Linux bridge.

iperf3 with the kernel's defaults, one stream, MTU 1500, offloads on; each path in its turn for a
second or two, over and over. CPU is that of iperf3's two ends and of the forwarder together, in
percent of one CPU per Gbit/s.
"""

import json
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psutil

from bench.domain import domain
from bench.results import Row, row
from tests.support.netns import Netns, network_namespace, veth_pair

GOAL = ">= 0.6 of direct veth"


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """A way from one pod to another."""

    client: Netns
    address: str
    forwarder_pid: int | None = None


@contextmanager
def direct() -> Iterator[Path]:
    """One veth pair between the pods: nobody in between."""
    with network_namespace() as client, network_namespace() as server:
        veth_pair(client, server, addresses=(["10.65.0.1/30"], ["10.65.0.2/30"]))
        with server.process("iperf3", "-s"):
            yield Path(client=client, address="10.65.0.2")


@contextmanager
def bridge() -> Iterator[Path]:
    """Two veth pairs and a Linux bridge in a third namespace."""
    with network_namespace() as client, network_namespace() as node, network_namespace() as server:
        node.run("ip", "link", "add", "bridge", "type", "bridge")
        node.run("ip", "link", "set", "bridge", "up")
        for number, pod in enumerate((client, server), start=1):
            veth_pair(pod, node, names=("pod", f"port{number}"), addresses=([f"10.64.0.{number}/24"], []))
            node.run("ip", "link", "set", f"port{number}", "master", "bridge")
        with server.process("iperf3", "-s"):
            yield Path(client=client, address="10.64.0.2")


@contextmanager
def vwire() -> Iterator[Path]:
    """A kernel vWire that a Request made."""
    with domain() as made:
        connection = made.request()
        address = connection.context.ip_context.dst_ip_addrs[0].split("/")[0]
        with made.server.process("iperf3", "-s"):
            yield Path(client=made.client, address=address, forwarder_pid=made.forwarder.pid)
        made.close(connection)


PATHS = {"vwire": vwire, "veth": direct, "bridge": bridge}


def _cpu_s(pid: int | None) -> float:
    if pid is None:
        return 0.0
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def transfer(path: Path, seconds: float) -> tuple[float, float]:
    """Runs iperf3 once; returns Gbit/s received and CPU percent per Gbit/s."""
    before, start = _cpu_s(path.forwarder_pid), time.monotonic()
    command = path.client.argv("iperf3", "-c", path.address, "-t", str(seconds), "-J", "--connect-timeout", "3000")
    done = subprocess.run(command, pass_fds=(path.client.fd,), capture_output=True, text=True, timeout=60, check=False)
    told = json.loads(done.stdout)
    if "error" in told:
        raise RuntimeError(f"iperf3 to {path.address}: {told['error']}")
    forwarder = 100 * (_cpu_s(path.forwarder_pid) - before) / (time.monotonic() - start)
    ends = told["end"]["cpu_utilization_percent"]
    gbps = told["end"]["sum_received"]["bits_per_second"] / 1e9
    return gbps, (ends["host_total"] + ends["remote_total"] + forwarder) / gbps


def run(*, quick: bool) -> list[Row]:
    """Interleaves transfers over all paths."""
    rounds, seconds = (5, 1) if quick else (15, 2)
    gbps: dict[str, list[float]] = defaultdict(list)
    cpu: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        paths = {name: stack.enter_context(make()) for name, make in PATHS.items()}
        for path in paths.values():
            transfer(path, 1)  # warm
        for turn in range(rounds):
            names = list(paths)[turn % len(paths) :] + list(paths)[: turn % len(paths)]
            for name in names:
                rate, cost = transfer(paths[name], seconds)
                gbps[name].append(rate)
                cpu[name].append(cost)
    made = []
    for other, what in (("veth", "direct veth"), ("bridge", "Linux bridge")):
        goal = GOAL if other == "veth" else ""
        baseline = {"baseline": what, "goal": goal}
        made.append(
            row(f"tcp-kernel-kernel-vs-{other}", "Gbit/s", gbps["vwire"], baseline_samples=gbps[other], **baseline)
        )
    for other, what in (("veth", "direct veth"), ("bridge", "Linux bridge")):
        made.append(row(f"tcp-cpu-vs-{other}", "% per Gb/s", cpu["vwire"], baseline=what, baseline_samples=cpu[other]))
    return made
