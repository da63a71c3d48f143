"""Two pods and a forwarder between them: each pod's `eth0` is a veth whose other end is ours."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from forwarder.dataplane import Dataplane
from forwarder.dataplane.af_packet import AfPacketPort
from forwarder.dataplane.kernel_port import KernelPorts
from forwarder.dataplane.spec import KernelPortSpec, Mode
from forwarder.dataplane.statistics import VwireStatistics
from forwarder.dataplane.vwire import Vwire
from tests.support.netns import Netns, network_namespaces, veth_pair
from tests.support.packet_socket import quiet

LINK = "eth0"
OURS = ("port-a", "port-b")
MACS = (b"\x02\0\0\0\0\x0a", b"\x02\0\0\0\0\x0b")
OUR_MACS = (b"\x02\0\0\0\1\x0a", b"\x02\0\0\0\1\x0b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pods:
    """The namespaces, before anything joins them."""

    a: Netns
    b: Netns
    hub: Netns

    def spec(self, side: int, mode: Mode = Mode.ETHERNET, mtu_bytes: int = 1500) -> KernelPortSpec:
        """Describes our end of the link of pod `side`, 0 or 1."""
        return KernelPortSpec(
            name=OURS[side],
            ifindex=self.hub.ifindex(OURS[side]),
            netns=self.hub.fd,
            mode=mode,
            mtu_bytes=mtu_bytes,
            mac=OUR_MACS[side],
            peer_mac=MACS[side],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelWire:
    """A running vWire between the two pods."""

    pods: Pods
    dataplane: Dataplane
    ports: KernelPorts
    a: AfPacketPort
    b: AfPacketPort
    wire: Vwire

    def statistics(self) -> VwireStatistics:
        """Returns the vWire's counters."""
        return self.wire.statistics()


@contextmanager
def pods(*, mtu: int = 1500, addressed: bool = False) -> Iterator[Pods]:
    """Makes the namespaces and links, quiet ones, or with addresses 10.0.0.1 and .2, 2001:db8::1 and ::2."""
    with network_namespaces(3) as (a, b, hub):
        for side, (pod, ours) in enumerate(zip((a, b), OURS, strict=True)):
            addresses = (f"10.0.0.{side + 1}/24", f"2001:db8::{side + 1}/64") if addressed else ()
            veth_pair(pod, hub, names=(LINK, ours), addresses=(addresses, ()), mtu=mtu)
            pod.run("ip", "link", "set", LINK, "address", MACS[side].hex(":"))
            hub.run("ip", "link", "set", ours, "address", OUR_MACS[side].hex(":"))
            quiet(hub, ours)
            if not addressed:
                quiet(pod, LINK)
        yield Pods(a=a, b=b, hub=hub)


@asynccontextmanager
async def kernel_wire(
    pods: Pods,
    *,
    ring: bool = False,
    mode: Mode = Mode.ETHERNET,
    mtus: tuple[int, int] = (1500, 1500),
    qdisc_bypass: bool = True,
    ring_rate: float = 0,
) -> AsyncIterator[KernelWire]:
    """Joins the two pods; `ring`: both ports receive through mapped rings from the start."""
    ports = KernelPorts(ring_rate=ring_rate, qdisc_bypass=qdisc_bypass)
    async with (
        Dataplane() as dataplane,
        ports.open(pods.spec(0, mode, mtus[0])) as a,
        ports.open(pods.spec(1, mode, mtus[1])) as b,
        dataplane.vwire(a, b, name="a-b") as wire,
    ):
        if ring:
            await ports.look(1.0)
            await ports.look(2.0)
            assert a.ring is not None
            assert b.ring is not None
        yield KernelWire(pods=pods, dataplane=dataplane, ports=ports, a=a, b=b, wire=wire)
