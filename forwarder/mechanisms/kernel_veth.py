"""The veth datapath: one veth pair with an end in each pod, and nobody in between.

```
  the client's namespace                    the endpoint's namespace
  <name>  -------------- veth --------------  <name>
  alias server-<id>                         alias client-<id>
```

Names, marks, hardware addresses, MTU, addresses, routes, rules and neighbours are those of the
KERNEL mechanism on either side. Our namespace has nothing of it and no process is in the path, so
it goes on while this one stands still, and when this one was killed: a Request for the same
connection then finds the pair by its marks and takes it over as it is.

The devices count; see `VethJoint`.
"""

import errno
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from forwarder.api.connection_pb2 import Connection
from forwarder.api.context import Side
from forwarder.dataplane.statistics import FlowStatistics, VwireStatistics
from forwarder.errors import InvalidRequest, NetlinkError
from forwarder.mechanisms import Broken, inode_url
from forwarder.mechanisms.interface_context import InterfaceContext, interface_context
from forwarder.mechanisms.kernel_end import KernelDatapath, KernelEnd
from forwarder.mechanisms.kernel_interface import KernelInterface
from forwarder.netlink import Channel, link, nsid
from forwarder.netlink.link import Link, Statistics, VethEnd
from forwarder.netlink.remote_links import Place, RemoteLinks
from forwarder.netns import Netns, run_in

log = logging.getLogger(__name__)


class PodInterface(KernelInterface):
    """One end of the pair: what `KernelInterface` does in a pod, without an end of ours."""

    place: Place = (0, 0)
    """Where our namespace sees it."""

    def become(self, index: int, mac: bytes, other_mac: bytes) -> None:
        """Stands for a link that is there."""
        self.their_index, self.their_mac, self.our_mac = index, mac, other_mac
        self.remember()

    def may_adopt(self, left: Link) -> bool:
        """Says whether a link is nobody else's; in our namespace."""
        return self._tools.owner.may_adopt(left.group)

    def make_room(self, theirs: Channel, *, taken: bool) -> None:
        """Deletes what an earlier connection of this id left."""
        self._make_room(theirs, taken=taken)

    def set_up(self, theirs: Channel) -> None:
        """Gives a new link, which is marked already, its context; in the pod's namespace."""
        self._set_up(theirs)

    def update(self, wanted: InterfaceContext) -> None:
        """Makes what is there into what is wanted. Raises NetlinkError (ENODEV) when it is gone."""
        with self._open_pod(wanted.inode_url) as pod:
            pod.enter()
            with Channel(pod.label) as theirs:
                (now,) = link.parse_all(theirs.ask(link.get(self.their_index)))
                self.wanted = wanted
                self._refresh(None, theirs, now)

    def remove(self) -> None:
        """Deletes the link, and with it the other end. Raises InvalidRequest or NetlinkError when the pod is gone."""
        if self._has_rules:
            self._remove_policies()
        with self._open_pod(self.wanted.inode_url) as pod:
            pod.enter()
            with Channel(pod.label) as theirs:
                theirs.execute([link.delete(self.their_index)])
        self.their_index = 0

    @property
    def stays(self) -> bool:
        """Says whether this process ends and leaves what is there to the next one."""
        return self._tools.keeping.is_set()

    @property
    def claims(self) -> AbstractContextManager[bool]:
        """To be held between finding a pair that an earlier process left and taking it over."""
        return self._tools.claims

    @property
    def end(self) -> VethEnd:
        """What a new link is made with."""
        wanted, group = self.wanted, self._tools.owner.group
        return VethEnd(name=wanted.name, mac=self.their_mac, mtu_bytes=wanted.mtu_bytes, group=group)


@dataclass(frozen=True, slots=True)
class _Visit:
    """A pod that a thread can go to and ask."""

    interface: PodInterface
    pod: Netns
    channel: Channel


class VethPair:
    """Both ends. `create`, then `remove`; blocks, on threads made for it."""

    def __init__(self, client: PodInterface, endpoint: PodInterface) -> None:
        self._ends = (client, endpoint)
        self.adopted = False
        """It was there already, and was not made anew."""

    def create(self) -> None:
        """Makes the pair, or takes over the one that is there, with its context in both pods.

        Raises InvalidRequest when a namespace is not there, NameTaken when a name is, NetlinkError
        when the kernel refuses; `remove` must follow then, too.
        """
        with ExitStack() as stack:
            home = stack.enter_context(Netns.current())
            ours = stack.enter_context(Channel())
            visits = [self._visit(stack, ours, each) for each in self._ends]
            home.enter()
            taken = [each.interface.is_taken(each.channel) for each in visits]
            links = self._take_over(visits) if all(taken) else ()
            if links:
                for visit, left in zip(visits, links, strict=True):
                    visit.pod.enter()
                    visit.interface.refresh_adopted(None, visit.channel, left)
            else:
                self._make(visits, taken)
            for each in visits:
                number, _ = each.interface.place
                each.interface.place = number, each.interface.their_index

    def remove(self) -> None:
        """Takes the pair away, unless it stays for the next process; what is gone already is fine."""
        with Netns.current() as home:
            for end in self._ends:
                end.forget()
            if self._ends[0].stays:
                return
            try:
                self._delete()
            finally:
                for end in self._ends:
                    home.enter()
                    end.bring_back()

    def _delete(self) -> None:
        for end in self._ends:
            if not end.their_index:
                return
            try:
                end.remove()
            except InvalidRequest:
                continue  # this pod is gone; the other one may still be there with the pair
            except NetlinkError as error:
                if error.errno != errno.ENODEV:
                    raise
                continue
            return

    def _visit(self, stack: ExitStack, home: Channel, interface: PodInterface) -> _Visit:
        pod = stack.enter_context(inode_url.open_netns(interface.wanted.inode_url))
        interface.netns = pod.identity
        interface.place = nsid.assign(home, pod.fileno()), 0
        pod.enter()
        return _Visit(interface, pod, stack.enter_context(Channel(pod.label)))

    def _take_over(self, visits: Sequence[_Visit]) -> Sequence[Link]:
        """Returns the ends of the pair that an earlier process left and that is now ours; in our namespace."""
        client, endpoint = (each.interface for each in visits)
        with client.claims:
            near, far = (each.interface.found(each.channel) for each in visits)
            if near is None or far is None or not _are_one_pair(visits, near, far) or not client.may_adopt(near):
                return ()
            client.become(near.index, near.mac, far.mac)
            endpoint.become(far.index, far.mac, near.mac)
        self.adopted = True
        return near, far

    def _make(self, visits: Sequence[_Visit], taken: Sequence[bool]) -> None:
        for each, there in zip(visits, taken, strict=True):
            each.interface.make_room(each.channel, taken=there)
        near, far = (each.interface for each in visits)
        try:
            answers = visits[0].channel.execute(
                [link.create_veth(near.end, far.end, visits[1].pod.fileno()), link.get(near.wanted.name)]
            )
        except NetlinkError as error:
            for each in visits:
                each.interface.refuse_taken(each.channel, error)
            raise
        (made,) = link.parse_all(answers[1])
        near.become(made.index, near.their_mac, far.their_mac)
        far.become(made.peer_index, far.their_mac, near.their_mac)
        # Marked before anything else can fail, and up before addresses: IPv6 waits for both ends.
        for each in visits:
            index, alias = each.interface.their_index, each.interface.wanted.alias
            each.channel.execute([link.set_alias(index, alias, on=link.IFF_UP)])
        for each in visits:
            each.pod.enter()
            each.interface.set_up(each.channel)


def _are_one_pair(visits: Sequence[_Visit], near: Link, far: Link) -> bool:
    """Says whether two links are each other's ends: indices repeat from namespace to namespace."""
    if (near.peer_index, far.peer_index) != (far.index, near.index):
        return False
    if visits[0].pod.identity == visits[1].pod.identity:
        return near.peer_nsid is None
    return near.peer_nsid is not None and near.peer_nsid == nsid.known(visits[0].channel, visits[1].pod.fileno())


_End = KernelEnd[PodInterface]


class VethJoint:
    """A pair that is there."""

    def __init__(self, client: _End, endpoint: _End, links: RemoteLinks, name: str) -> None:
        self._client = client
        self._endpoint = endpoint
        self._links = links
        self._name = name

    def statistics(self) -> VwireStatistics | None:
        """Returns what the two devices have counted since they were made; None when they are gone.

        Frames and bytes are with their Ethernet header, with payload IP too; a super-frame is one.
        What the kernel dropped at a device has no other reason than that.
        """
        near, far = self._links.statistics(self._client.pair.place, self._endpoint.pair.place)
        if near is None or far is None:
            return None
        return VwireStatistics(name=self._name, a_to_b=_flow(near, far), b_to_a=_flow(far, near))


def _flow(sender: Statistics, receiver: Statistics) -> FlowStatistics:
    """What left one pod for the other: a device's own count of what it sent is what its peer received."""
    dropped = sender.send_drops + receiver.receive_drops
    return FlowStatistics(
        in_frames=sender.sent_frames + sender.send_drops,
        in_bytes=sender.sent_bytes,
        out_frames=sender.sent_frames - receiver.receive_drops,
        out_bytes=sender.sent_bytes,
        bursts=0,
        drops={"device": dropped} if dropped else {},
    )


class DirectVeth(KernelDatapath):
    """One veth pair between the two pods."""

    name = "veth"
    keeps_client = False

    @asynccontextmanager
    async def open(self, side: Side, connection: Connection) -> AsyncIterator[_End]:
        """Reads what this side wants. The pair is made when both sides are known."""
        self._kernel.check(connection.mechanism, side)
        wanted = interface_context(connection, side)
        yield _End(side, connection, PodInterface(wanted, connection.network_service, self._kernel.tools))

    @asynccontextmanager
    async def join(self, client: _End, endpoint: _End, *, name: str, broken: Broken) -> AsyncIterator[VethJoint]:
        """Makes the pair, or takes over the one that an earlier process left; takes it away on leaving.

        Raises InvalidRequest or NetlinkError.
        """
        pair = VethPair(client.pair, endpoint.pair)
        async with AsyncExitStack() as stack:
            # a thread of its own: neither a second cancellation nor an ended deadline stops it
            stack.push_async_callback(run_in, None, pair.remove)
            async with self._kernel.room:
                await run_in(None, pair.create)
            if pair.adopted:
                log.info("%s and %s: taken over as it is", client.interface, endpoint.interface)
            for end in (client, endpoint):
                end.fault = ""
                stack.callback(self._links.forget, end.pair.place)
            self._links.watch({end.pair.place: partial(end.gone, broken) for end in (client, endpoint)})
            yield VethJoint(client, endpoint, self._links, name)
