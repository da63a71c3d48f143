"""Makes, changes and removes the veth pair between a pod and the data plane.

```
  our namespace                         the pod's namespace
  <service>-<random>  ---- veth ----    <name from the request>
  alias veth-server-<id>                alias server-<id>
  group of the forwarder                group of the forwarder
  no addresses, no ARP,                 addresses, routes, rules, neighbours
  arriving frames dropped               MTU, settings
  after the data plane's tap
```

A pair that an earlier process left is found by its name and marks, and taken over as it is.

Everything here blocks for as long as the kernel works on it, and enters namespaces: it runs on
threads made for it, never on the event loop's.
"""

import dataclasses
import errno
import logging
import os
import re
import string
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Final

from forwarder.errors import InvalidRequest, NameTaken, NetlinkError
from forwarder.mechanisms import inode_url, policy_tables
from forwarder.mechanisms.inode_url import Identity
from forwarder.mechanisms.interface_context import InterfaceContext
from forwarder.mechanisms.owner import Owner
from forwarder.netlink import Channel, address, ingress, link, neighbour, nsid, route, rule, sysctl
from forwarder.netlink.address import IpInterface
from forwarder.netlink.link import Link, VethEnd
from forwarder.netlink.link_remover import LinkRemover
from forwarder.netlink.neighbour import Neighbour
from forwarder.netlink.request import Message, Request
from forwarder.netlink.route import MAIN_TABLE
from forwarder.netns import Netns

log = logging.getLogger(__name__)

_LETTERS: Final = string.ascii_letters + string.digits
_UNSUITED: Final = re.compile(r"[^A-Za-z0-9_.-]")
_SERVICE_LETTERS: Final = 10
_ADDRESS_ATTEMPTS: Final = 11


class Live:
    """Interfaces that are there, by namespace and mark of the link in the pod.

    Two of one mark are there while one replaces the other.
    """

    def __init__(self) -> None:
        self._by_mark: dict[tuple[Identity, str], tuple[KernelInterface, ...]] = {}
        self._theirs: set[tuple[Identity, int]] = set()
        self._ours: set[int] = set()

    def add(self, interface: "KernelInterface") -> None:
        """Notes one that is there."""
        key = (interface.netns, interface.wanted.alias)
        self._by_mark[key] = (*(each for each in self._by_mark.get(key, ()) if each is not interface), interface)
        self._theirs.add((interface.netns, interface.their_index))
        self._ours.add(interface.our_index)

    def discard(self, interface: "KernelInterface") -> None:
        """Notes that one is there no more, or soon will not be."""
        key = (interface.netns, interface.wanted.alias)
        left = tuple(each for each in self._by_mark.get(key, ()) if each is not interface)
        if left:
            self._by_mark[key] = left
        else:
            self._by_mark.pop(key, None)
        self._theirs.discard((interface.netns, interface.their_index))
        self._ours.discard(interface.our_index)

    def marked(self, netns: Identity, alias: str) -> "Sequence[KernelInterface]":
        """Returns those that are there, the oldest first."""
        return self._by_mark.get((netns, alias), ())

    def has(self, netns: Identity, index: int) -> bool:
        """Says whether a link in a pod is one of them, whatever mark the pod may have given it meanwhile."""
        return (netns, index) in self._theirs

    def has_ours(self, index: int) -> bool:
        """Says whether a link in our namespace is our end of one of them."""
        return index in self._ours


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What all interfaces share."""

    owner: Owner = dataclasses.field(default_factory=Owner)
    """Whose all of them are."""
    drop_filter: ingress.DropFilter = dataclasses.field(default_factory=ingress.DropFilter)
    remover: LinkRemover = dataclasses.field(default_factory=LinkRemover)
    tables: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    """Held between looking for a free routing table and taking it."""
    live: Live = dataclasses.field(default_factory=Live)
    """What is there of this process."""
    keeping: threading.Event = dataclasses.field(default_factory=threading.Event)
    """Set when this process ends and what is there stays for the next one."""
    claims: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    """Held between finding a link that an earlier process left and taking it over, or away."""


class KernelInterface:
    """One veth pair. `create`, then any number of `update`, then `remove`, one at a time."""

    def __init__(self, wanted: InterfaceContext, service: str, tools: Tools) -> None:
        """Makes nothing yet. `service` gives our end the readable half of its name."""
        self.our_name = _random_name(_UNSUITED.sub("-", service)[:_SERVICE_LETTERS] or "vwire")
        self.our_mac = link.random_mac()
        self.our_index = 0
        self.their_mac = wanted.mac or link.random_mac()
        self.netns: tuple[int, int] = (0, 0)
        """Identity of the pod's namespace. It is not held open: when the pod is gone, so is the pair."""
        self.wanted = wanted
        self.adopted = False
        """It was there already, from an earlier process."""
        self.their_index = 0
        """The link's index in the pod's namespace; 0 while there is none."""
        self._tools = tools
        self._has_rules = False
        self._parked: list[KernelInterface] = []
        """Interfaces that had our name or mark, and get it back if we go before they do."""

    def create(self) -> None:
        """Makes the pair, or takes over the one that an earlier process left, and gives the pod's end its context.

        Taken over, links, addresses and whatever else is as wanted are not touched; our end keeps
        what becomes of frames that arrive. What an earlier process left and does not fit is
        deleted first. One of ours that this one replaces is put aside: it has its name and all else
        again when this one is removed and it is still there.
        Raises InvalidRequest when the namespace is not there, NameTaken when the name is, NetlinkError
        when the kernel refuses; `remove` must follow then, too.
        """
        wanted = self.wanted
        with Netns.current() as home, inode_url.open_netns(wanted.inode_url) as pod, Channel() as ours:
            self.netns = pod.identity
            pod.enter()
            with Channel(pod.label) as theirs:
                taken = self.is_taken(theirs)
                if taken and (left := self._take_over(ours, theirs, home, pod)) is not None:
                    self._adopt(ours, theirs, left)
                    return
                self._make_room(theirs, taken=taken)
                home.enter()
                try:
                    self._create_pair(ours, pod)
                except NetlinkError as error:
                    self.refuse_taken(theirs, error)
                    raise
                pod.enter()
                index = self.their_index = link.index_of(wanted.name)
                self.remember()
                self._set_up(theirs, link.set_alias(index, wanted.alias, on=link.IFF_UP))

    def update(self, wanted: InterfaceContext) -> None:
        """Makes what is there into what is wanted, touching only what differs, adding before removing.

        Raises NetlinkError (ENODEV) when the interface or its namespace is gone.
        """
        with self._open_pod(wanted.inode_url) as pod, Channel() as ours:
            pod.enter()
            with Channel(pod.label) as theirs:
                found = link.parse_all(theirs.ask(link.get(self.their_index)))
                if not found or found[0].mac != self.their_mac:
                    raise NetlinkError(f"interface {wanted.name} has left {pod.label}", errno=errno.ENODEV)
                self.wanted = wanted
                self._refresh(ours, theirs, found[0])

    def remove(self) -> None:
        """Takes away whatever of this was made, unless it stays for the next process; what is gone already is fine."""
        if self._tools.keeping.is_set():
            self.forget()
            return
        if self._has_rules:
            self._remove_policies()
        self.forget()
        if self.our_index:
            self._tools.remover.remove(self.our_index)
        self.bring_back()

    def remember(self) -> None:
        """Notes that the link in the pod is there and ours."""
        self._tools.live.add(self)

    def forget(self) -> None:
        """Notes that the link in the pod is no more, or soon will be."""
        self._tools.live.discard(self)

    def bring_back(self) -> None:
        """Gives the interfaces that we put aside, and that are there still, what they had. Enters namespaces."""
        parked, self._parked = self._parked, []
        for each in parked:
            if each in self._tools.live.marked(each.netns, each.wanted.alias):
                try:
                    each._unpark()
                except (InvalidRequest, NetlinkError) as error:
                    log.warning("%s was replaced in vain and is lost: %s", each.wanted.name, error)

    def _unpark(self) -> None:
        with self._open_pod(self.wanted.inode_url) as pod:
            pod.enter()
            with Channel(pod.label) as theirs:
                theirs.execute([link.rename(self.their_index, self.wanted.name)])
                theirs.execute([link.set_flags(self.their_index, on=link.IFF_UP)])
        self.update(self.wanted)

    def _open_pod(self, url: str) -> Netns:
        """Opens the pod's namespace again. Raises NetlinkError (ENODEV) when it is another one by now."""
        pod = inode_url.open_netns(url)
        if pod.identity != self.netns:
            pod.close()
            raise NetlinkError(f"{url} is not the network namespace that it was", errno=errno.ENODEV)
        return pod

    def is_taken(self, theirs: Channel) -> bool:
        """Says whether there is a link of the wanted name."""
        return bool(theirs.ask(link.get(self.wanted.name, may_be_absent=True)))

    def _make_room(self, theirs: Channel, *, taken: bool) -> None:
        """Puts aside what is to be replaced; deletes what an earlier process left of this connection under our name.

        Asks for single links: a pod may have a thousand.
        """
        for owner in self._tools.live.marked(self.netns, self.wanted.alias):
            for each in link.parse_all(theirs.ask(link.get(owner.their_index, may_be_absent=True))):
                if each.alias != self.wanted.alias:
                    continue  # it has gone, and another link has its number
                # down: not every kernel renames a link that is up, and its routes would be in our way
                theirs.execute([link.set_flags(each.index, off=link.IFF_UP)])
                self._parked.append(owner)
                theirs.execute([link.rename(each.index, _random_name("vw"))])
        if not taken:
            return
        for each in link.parse_all(theirs.ask(link.get(self.wanted.name, may_be_absent=True))):
            if each.alias == self.wanted.alias:
                log.info("deleting link %s (%s), left over in the pod's namespace", each.name, each.alias)
                theirs.execute([link.delete(each.index)])

    def found(self, theirs: Channel) -> Link | None:
        """Returns the link that an earlier process left, if there is one with our mark and as wanted."""
        wanted = self.wanted
        for each in link.parse_all(theirs.ask(link.get(wanted.name, may_be_absent=True))):
            fits = each.alias == wanted.alias and each.kind == "veth" and wanted.mac in (b"", each.mac)
            if fits and not self._tools.live.has(self.netns, each.index):
                return each
        return None

    def _take_over(self, ours: Channel, theirs: Channel, home: Netns, pod: Netns) -> Link | None:
        """Returns the pod's end of a pair that an earlier process left and that is now ours; in the pod's namespace."""
        with self._tools.claims:
            left = self.found(theirs)
            if left is None or not self._ends_with_us(theirs, left, home, pod):
                return None
            far = link.parse_all(ours.ask(link.get(left.peer_index, may_be_absent=True)))
            if not far or far[0].alias != self.wanted.peer_alias:
                return None
            home.enter()
            try:
                if not self._tools.owner.may_adopt(left.group):
                    return None
            finally:
                pod.enter()
            self.adopted = True
            self.our_name, self.our_index, self.our_mac = far[0].name, far[0].index, far[0].mac
            self.their_index, self.their_mac = left.index, left.mac
            self.remember()
            return left

    def _ends_with_us(self, theirs: Channel, left: Link, home: Netns, pod: Netns) -> bool:
        """Says whether a link's other end is in our own namespace."""
        if home.identity == pod.identity:
            return left.peer_nsid is None
        return left.peer_nsid is not None and left.peer_nsid == nsid.known(theirs, home.fileno())

    def _adopt(self, ours: Channel, theirs: Channel, left: Link) -> None:
        if left.group != self._tools.owner.group:
            ours.execute([link.set_group(self.our_index, self._tools.owner.group)])
        self.refresh_adopted(ours, theirs, left)
        log.info("taken over as it is: interface %s, our end %s", self.wanted.name, self.our_name)

    def refresh_adopted(self, ours: Channel | None, theirs: Channel, left: Link) -> None:
        """Gives a link that was taken over whatever it lacks, and takes away what is not wanted any more."""
        self._has_rules = True  # there may be some
        self._refresh(ours, theirs, left)
        self._has_rules = bool(self.wanted.policies)

    def refuse_taken(self, theirs: Channel, error: NetlinkError) -> None:
        """Raises NameTaken if that is why the kernel refused to make the pair."""
        if error.errno != errno.EEXIST:
            return
        for holder in link.parse_all(theirs.ask(link.get(self.wanted.name, may_be_absent=True))):
            kind = holder.kind or "network"
            raise NameTaken(
                f"cannot create interface {holder.name} in {self.wanted.inode_url}",
                detail="the name is taken by "
                + (f"a {kind} link with alias {holder.alias!r}" if holder.alias else "another link"),
            ) from error

    def _create_pair(self, ours: Channel, pod: Netns) -> None:
        wanted = self.wanted
        group = self._tools.owner.group
        end = VethEnd(name=self.our_name, mac=self.our_mac, mtu_bytes=wanted.mtu_bytes, group=group)
        their_end = VethEnd(name=wanted.name, mac=self.their_mac, mtu_bytes=wanted.mtu_bytes, group=group)
        ours.ask(link.create_veth(end, their_end, pod.fileno()))
        index = self.our_index = link.index_of(self.our_name)
        ours.execute([link.set_alias(index, wanted.peer_alias), link.no_ipv6_address(index)])
        try:
            sysctl.write(f"ipv6/conf/{self.our_name}/disable_ipv6", "1")
        except NetlinkError as error:
            # no address is made up even so; what is left is a report of multicast membership
            log.debug("%s", error)
        requests = [link.set_flags(index, on=link.IFF_UP | link.IFF_NOARP)]
        try:
            requests = self._tools.drop_filter.attach(index) + requests
            ours.execute(requests)
        except NetlinkError as error:
            self._tell_unfiltered(error)
            ours.execute(requests[-1:])

    def _tell_unfiltered(self, error: NetlinkError) -> None:
        log.warning("frames for %s will reach our own network stack too: %s", self.our_name, error)

    def part(self) -> None:
        """Drops what arrives on our end from now on, unless all stays for the next process."""
        if not self._tools.keeping.is_set():
            self.drop_arriving()

    def drop_arriving(self) -> None:
        """Sees to it that what arrives on our end goes nowhere but to packet sockets."""
        with Channel() as ours:
            try:
                ours.execute(self._tools.drop_filter.attach(self.our_index))
            except NetlinkError as error:
                if error.errno != errno.ENODEV:  # it went with the pod
                    self._tell_unfiltered(error)

    def _set_up(self, theirs: Channel, *first: Request) -> None:
        """Gives a new link its context, after what has to be done `first`; in the pod's namespace."""
        wanted, index = self.wanted, self.their_index
        self._write_settings()
        theirs.execute(
            [
                *first,
                *(address.add(index, one) for one in wanted.addresses),
                *(neighbour.put(index, one) for one in self._neighbours()),
                *(route.add(index, one) for one in wanted.routes),
            ]
        )
        self._refresh_policies(theirs)
        self._check_addresses(theirs)

    def _refresh(self, ours: Channel | None, theirs: Channel, now: Link) -> None:
        wanted, index = self.wanted, self.their_index
        if now.group != self._tools.owner.group:
            theirs.execute([link.set_group(index, self._tools.owner.group)])
        if not wanted.managed:
            return
        requests: list[Request] = []
        if now.alias != wanted.alias:
            requests.append(link.set_alias(index, wanted.alias))
        if not now.up:
            requests.append(link.set_flags(index, on=link.IFF_UP))
        if now.mtu_bytes != wanted.mtu_bytes:
            if ours is not None:
                ours.execute([link.set_mtu(self.our_name, wanted.mtu_bytes)])
            requests.append(link.set_mtu(index, wanted.mtu_bytes))
        theirs.execute(requests)
        self._write_settings()
        current = self._current_addresses(theirs)
        steps = address.changes(wanted.addresses, current)
        theirs.execute([address.remove(index, one) for one in steps.remove_first])
        theirs.execute([address.add(index, one) for one in steps.add])
        self._refresh_neighbours(theirs)
        self._refresh_routes(theirs)
        self._refresh_policies(theirs)
        if steps.remove:
            theirs.execute([address.remove(index, one) for one in steps.remove])
            # the kernel takes secondary addresses, and routes, away with the address they hang on
            again = address.changes(wanted.addresses, self._current_addresses(theirs))
            theirs.execute([address.add(index, one) for one in again.add])
            self._refresh_routes(theirs)
            self._refresh_policies(theirs)
        self._check_addresses(theirs)

    def _current_addresses(self, theirs: Channel) -> list[IpInterface]:
        """Returns the addresses of global scope: those that the kernel made for the link are not ours to judge."""
        found = address.parse_all(theirs.ask(address.list_of(self.their_index)))
        return [one.interface for one in found if one.scope == address.SCOPE_GLOBAL]

    def _check_addresses(self, theirs: Channel) -> None:
        """Returns when the IPv6 addresses can be used.

        They were added without looking for duplicates, so the kernel has them ready at once or, if
        the link still comes up, in a moment: it is asked again after 1, 2, 4, … ms, 2 s in all.
        """
        if not any(one.version == 6 for one in self.wanted.addresses):
            return
        for attempt in range(_ADDRESS_ATTEMPTS):
            found = address.parse_all(theirs.ask(address.list_of(self.their_index)))
            wanted = [one for one in found if one.interface in self.wanted.addresses]
            if not any(one.tentative or one.duplicate for one in wanted):
                return
            time.sleep(0.001 * 2**attempt)
        raise NetlinkError(
            f"the IPv6 addresses of {self.wanted.name} do not become usable",
            errno=errno.EADDRINUSE if any(one.duplicate for one in wanted) else errno.EAGAIN,
        )

    def _neighbours(self) -> list[Neighbour]:
        """The neighbours asked for, and in IP mode all peers behind our end of the pair."""
        own = {one.ip for one in self.wanted.addresses}
        peers = [Neighbour(ip=ip, mac=self.our_mac, permanent=True) for ip in self.wanted.peers if ip not in own]
        given = [one for one in self.wanted.neighbours if one.ip not in own]
        return list({one.ip: one for one in [*given, *peers]}.values())

    def _refresh_neighbours(self, theirs: Channel) -> None:
        index = self.their_index
        current = neighbour.parse_ours(theirs.ask(neighbour.list_of(index)))
        steps = neighbour.changes(self._neighbours(), current)
        theirs.execute([neighbour.put(index, one) for one in steps.put])
        theirs.execute([neighbour.remove(index, ip) for ip in steps.remove])

    def _refresh_routes(self, theirs: Channel) -> None:
        index = self.their_index
        answers = theirs.execute(route.list_ours(index=index, table=MAIN_TABLE))
        current = [one for on, one in route.parse_ours(_flat(answers)) if on == index and one.table == MAIN_TABLE]
        steps = route.changes(self.wanted.routes, current)
        theirs.execute([route.add(index, one) for one in steps.add])
        theirs.execute([route.remove(index, one) for one in steps.remove])

    def _refresh_policies(self, theirs: Channel) -> None:
        if not self.wanted.policies and not self._has_rules:
            return
        self._has_rules = True
        index = self.their_index
        with self._tools.tables:
            rules = _flat(theirs.execute(rule.list_all()))
            routes = _flat(theirs.execute(route.list_all()))
            tables_with_routes = route.tables_in_use(routes)
            ours = rule.parse_ours(rules)
            left_over = policy_tables.orphans(ours, tables_with_routes)
            theirs.execute([rule.remove(one) for one in left_over])
            steps = policy_tables.changes(
                self.wanted.policies,
                rules=[one for one in ours if one not in left_over],
                routes=[one for on, one in route.parse_ours(routes) if on == index and one.table != MAIN_TABLE],
                tables_in_use=tables_with_routes | rule.tables_in_use(rules),
            )
            theirs.execute([route.add(index, one) for one in steps.add_routes])
            theirs.execute([rule.add(one) for one in steps.add_rules])
            theirs.execute([rule.remove(one) for one in steps.remove_rules])
            theirs.execute([route.remove(index, one) for one in steps.remove_routes])

    def _remove_policies(self) -> None:
        try:
            pod = self._open_pod(self.wanted.inode_url)
        except (InvalidRequest, NetlinkError) as error:
            log.debug("no rules to remove: %s", error)  # they went with their namespace
            return
        with Netns.current() as home, pod:
            pod.enter()
            with Channel(pod.label) as theirs:
                self.wanted = _without_policies(self.wanted)
                try:
                    self._refresh_policies(theirs)
                except NetlinkError as error:
                    log.warning("%s", error)
            home.enter()

    def _write_settings(self) -> None:
        wanted = self.wanted
        if not wanted.managed:
            return
        try:
            sysctl.write("ipv4/ping_group_range", "0 2147483647")
        except NetlinkError as error:
            log.warning("programs in the pod need a privilege to ping: %s", error)
        if any(one.version == 6 for one in wanted.addresses):
            sysctl.write(f"ipv6/conf/{wanted.name}/disable_ipv6", "0")
        if wanted.route_local_net:
            sysctl.write(f"ipv4/conf/{wanted.name}/route_localnet", "1")


def _flat(answers: Iterable[Iterable[Message]]) -> list[Message]:
    return [message for answer in answers for message in answer]


def _without_policies(wanted: InterfaceContext) -> InterfaceContext:
    return dataclasses.replace(wanted, policies=())


def _random_name(stem: str) -> str:
    filling = os.urandom(link.NAME_BYTES - len(stem) - 1)
    return f"{stem}-{''.join(_LETTERS[byte % len(_LETTERS)] for byte in filling)}"
