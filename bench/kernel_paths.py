"""Ways from one pod's kernel to another's: through vwire, a direct veth pair, the Linux bridge."""

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path as FilePath

from bench.domain import domain
from bench.programs import cpu_s, driven, installed
from bench.trees import Tree
from tests.support.netns import Netns, network_namespaces, veth_pair
from tests.support.packet_socket import quiet

IPERF_PORT = 5201
PATIENCE_S = 10
VETH, BRIDGE = "direct veth", "Linux bridge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """A way from one pod to another."""

    client: Netns
    server: Netns
    address: str
    """The server's."""
    forwarders: list[int] = field(default_factory=list)
    """Process ids of whoever is in between and has a process."""


Opener = Callable[[], AbstractContextManager[Path]]


@contextmanager
def direct() -> Iterator[Path]:
    """One veth pair between the pods: nobody in between."""
    with network_namespaces(2) as (client, server):
        veth_pair(client, server, addresses=(["10.65.0.1/30"], ["10.65.0.2/30"]))
        yield Path(client=client, server=server, address="10.65.0.2")


@contextmanager
def bridge() -> Iterator[Path]:
    """Two veth pairs and a Linux bridge in a third namespace."""
    with network_namespaces(3) as (client, node, server):
        node.run("ip", "link", "add", "bridge", "type", "bridge")
        node.run("ip", "link", "set", "bridge", "up")
        for number, pod in enumerate((client, server), start=1):
            veth_pair(pod, node, names=("pod", f"port{number}"), addresses=([f"10.64.0.{number}/24"], []))
            node.run("ip", "link", "set", f"port{number}", "master", "bridge")
        yield Path(client=client, server=server, address="10.64.0.2")


def vwire(tree: Tree, *, datapath: str = "") -> Opener:
    """Returns what opens a kernel vWire that a Request makes."""

    @contextmanager
    def opened() -> Iterator[Path]:
        with domain(tree=tree, datapath=datapath) as made:
            connection = made.request()
            address = connection.context.ip_context.dst_ip_addrs[0].split("/")[0]
            yield Path(client=made.client, server=made.server, address=address, forwarders=[made.forwarder.pid])
            made.close(connection)

    return opened


def through_memif(tree: Tree, *, offloads: bool = True) -> Opener:
    """Returns what opens kernel, memif, memif, kernel: two data planes, joined by a memif.

    `offloads`: whether the pods' links carry super-frames and unfinished checksums, to the forwarder
    and from it, as they do by themselves.
    """

    @contextmanager
    def opened() -> Iterator[Path]:
        with ExitStack() as stack:
            scratch = FilePath(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            client, node, server = stack.enter_context(network_namespaces(3))
            pids = []
            for number, (pod, role) in enumerate(((client, "server"), (server, "client")), start=1):
                link = f"ours{number}"
                veth_pair(pod, node, names=("pod", link), addresses=([f"10.63.0.{number}/24"], []))
                quiet(node, link)
                if not offloads:
                    features = ("tx", "off", "sg", "off", "tso", "off", "gso", "off", "gro", "off")
                    for netns, end in ((pod, "pod"), (node, link)):
                        netns.run(installed("ethtool", "ethtool"), "-K", end, *features)
                log = scratch / f"{link}.log"
                options = {"env": tree.environment(), "pass_fds": (node.fd,)}
                ours = stack.enter_context(driven(node.argv(*tree.ours("vwires")), log, **options))
                ours.answer("ready")
                ours.ask("mixed", link, role, scratch / "memif")
                pids.append(ours.pid)
            client.run("ping", "-c", "1", "-W", "5", "10.63.0.2")
            yield Path(client=client, server=server, address="10.63.0.2", forwarders=pids)

    return opened


def link_of(netns: Netns, address: str) -> tuple[str, str]:
    """Returns name and MAC of the link that has an address."""
    for name, link in netns.links().items():
        if any(each.get("local") == address for each in link["addr_info"]):
            return name, link["address"]
    raise RuntimeError(f"no link has the address {address}")


def source_of(netns: Netns, address: str) -> tuple[str, str, str]:
    """Returns name, MAC and own address of the link that leads to an address."""
    route = netns.json("ip", "-j", "route", "get", address)[0]
    return route["dev"], link_of(netns, route["prefsrc"])[1], route["prefsrc"]


@contextmanager
def iperf_server(path: Path) -> Iterator[None]:
    """Runs iperf3's server, listening, in the server's pod."""
    listening = f":{IPERF_PORT:04X} 0"  # address:port, then the peer's, all zero
    with path.server.process(installed("iperf3", "iperf3"), "-s", stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + PATIENCE_S
        while not any(listening in line for line in path.server.call(_tcp_sockets)):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"iperf3 -s does not listen after {PATIENCE_S} s")
            time.sleep(0.005)
        yield


def _tcp_sockets() -> list[str]:
    files = (FilePath(f"/proc/thread-self/net/{name}") for name in ("tcp", "tcp6"))
    return [line for file in files for line in file.read_text().splitlines()]


def transfer(path: Path, seconds: float) -> tuple[float, float]:
    """Runs iperf3, whose server runs, once; returns Gbit/s received and CPU percent per Gbit/s.

    CPU is that of iperf3's two ends and of the forwarders together.
    """
    before, start = sum(map(cpu_s, path.forwarders)), time.monotonic()
    command = path.client.argv("iperf3", "-c", path.address, "-t", str(seconds), "-J", "--connect-timeout", "3000")
    done = subprocess.run(command, pass_fds=(path.client.fd,), capture_output=True, text=True, timeout=60, check=False)
    told = json.loads(done.stdout)
    if "error" in told:
        raise RuntimeError(f"iperf3 to {path.address}: {told['error']}")
    between = 100 * (sum(map(cpu_s, path.forwarders)) - before) / (time.monotonic() - start)
    ends = told["end"]["cpu_utilization_percent"]
    gbps = told["end"]["sum_received"]["bits_per_second"] / 1e9
    return gbps, (ends["host_total"] + ends["remote_total"] + between) / gbps
