"""The redirect datapath: a veth pair into each pod, our two ends joined by tc.

```
  the client's namespace          our namespace            the endpoint's namespace
  <name> ------ veth ------ <service>-<random>
                                  │     ▲
                           tc redirect, each way
                                  ▼     │
                            <service>-<random> ------ veth ------ <name>
```

No process is in the path, as with `veth`, and each side's interface is its own, as with
`userspace`: when the endpoint dies or another one takes over, the client's stays as it is. All frames
pass two devices of ours, which count. Interfaces, marks and contexts are the KERNEL mechanism's.

A frame that arrives on one of our ends leaves by the other as it came, a super-frame as one. With
payload IP only IPv4 and IPv6 pass, and get the hardware addresses that the other pod expects.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from forwarder.api.connection_pb2 import Connection
from forwarder.api.context import Side
from forwarder.dataplane.statistics import FlowStatistics, VwireStatistics
from forwarder.mechanisms import Broken
from forwarder.mechanisms.kernel_end import KernelDatapath, KernelEnd
from forwarder.mechanisms.kernel_interface import KernelInterface
from forwarder.netlink import Channel
from forwarder.netlink.ingress import Addresses, Redirect
from forwarder.netlink.link import Statistics
from forwarder.netlink.remote_links import HOME, Place, RemoteLinks
from forwarder.netns import run_in


class RedirectEnd(KernelEnd[KernelInterface]):
    """One side: a pair with an end in the pod and one here."""

    @property
    def place(self) -> Place:
        """Where our end is."""
        return HOME, self.pair.our_index


class RedirectJoint:
    """Two ends that send to each other."""

    def __init__(self, client: RedirectEnd, endpoint: RedirectEnd, links: RemoteLinks, name: str) -> None:
        self._indices = client.pair.our_index, endpoint.pair.our_index
        self._links = links
        self._name = name

    def statistics(self) -> VwireStatistics | None:
        """Returns what our two ends have counted since they were made; None when they are gone.

        Frames and bytes are with their Ethernet header; a super-frame is one.
        """
        near, far = self._links.statistics(*((HOME, index) for index in self._indices))
        if near is None or far is None:
            return None
        near_drops, far_drops = self._links.drops(*self._indices)
        return VwireStatistics(name=self._name, a_to_b=_flow(near, near_drops, far), b_to_a=_flow(far, far_drops, near))


def _flow(arriving: Statistics, not_redirected: int, leaving: Statistics) -> FlowStatistics:
    """What came from one pod on our end there, and left by our end to the other pod.

    Drop reasons: `device` is what our end to the other pod refused, `not redirected` what the program
    did not send on (no packet where only packets pass), or what came while there was no other end. Frames
    that the kernel has between the two are none of these yet, and come in when they leave.
    """
    drops = {"device": leaving.send_drops, "not redirected": not_redirected}
    return FlowStatistics(
        in_frames=leaving.sent_frames + leaving.send_drops + not_redirected,
        in_bytes=arriving.received_bytes,
        out_frames=leaving.sent_frames,
        out_bytes=leaving.sent_bytes,
        bursts=0,
        drops={reason: count for reason, count in drops.items() if count},
    )


class RedirectedVeths(KernelDatapath):
    """A veth pair into each pod, joined by tc."""

    name = "redirect"
    keeps_client = True

    @asynccontextmanager
    async def open(self, side: Side, connection: Connection) -> AsyncIterator[RedirectEnd]:
        """Makes the pair, or takes over the one that an earlier process left; as `KernelMechanism.open`."""
        async with self._kernel.interface(side, connection) as pair:
            yield RedirectEnd(side, connection, pair)

    @asynccontextmanager
    async def join(
        self, client: RedirectEnd, endpoint: RedirectEnd, *, name: str, broken: Broken
    ) -> AsyncIterator[RedirectJoint]:
        """Redirects each end to the other; on leaving, what arrives is dropped again. Raises NetlinkError."""
        async with AsyncExitStack() as stack:
            for end in (client, endpoint):
                stack.push_async_callback(run_in, None, end.pair.part)
            await run_in(None, partial(_redirect, client.pair, endpoint.pair))
            for end in (client, endpoint):
                end.fault = ""
                stack.callback(self._links.forget, end.place)
            self._links.watch({end.place: partial(end.gone, broken) for end in (client, endpoint)})
            yield RedirectJoint(client, endpoint, self._links, name)


def _redirect(near: KernelInterface, far: KernelInterface) -> None:
    with (
        Redirect(far.our_index, _addresses(far)) as forth,
        Redirect(near.our_index, _addresses(near)) as back,
        Channel() as ours,
    ):
        ours.execute([*forth.attach(near.our_index), *back.attach(far.our_index)])


def _addresses(pair: KernelInterface) -> Addresses | None:
    return Addresses(source=pair.our_mac, destination=pair.their_mac) if pair.wanted.ip_mode else None
