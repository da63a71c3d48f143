"""Compares what should be there of ours with what is, and takes away what an earlier process left.

Every link that a forwarder makes carries its number (`owner`). One that no vWire of this process has
is an orphan: its maker was killed, ended and left it, or could not delete it. Its client may still ask
again, and then gets it back, so it goes only after a time of grace. Nothing without our number is
touched, and nothing at all while another process lives under our name.

Rules do not go with the link they were made for: those that led to its tables are removed with it.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from forwarder.dataplane.running_task import running_task
from forwarder.errors import NetlinkError
from forwarder.mechanisms.inode_url import Identity
from forwarder.mechanisms.kernel_interface import Tools
from forwarder.netlink import Channel, link, route, rule
from forwarder.netlink.link import Link
from forwarder.netlink.request import Message
from forwarder.netlink.route import MAIN_TABLE
from forwarder.netns import Netns, run_in

_LOOKS_PER_GRACE: Final = 4
_LONGEST_PAUSE_S: Final = 300.0
"""A look at a pod's namespace takes 0.2 ms of processor time."""

_Key = tuple[Identity, int, bytes]
"""Namespace, index and hardware address of a link."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Reconciler:
    """Looks at every namespace of this machine that a process is in or that has a name."""

    tools: Tools
    grace_s: float
    """How long an orphan stays."""
    _orphans: dict[_Key, float] = field(default_factory=dict)
    """When each was seen first, in seconds."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Looks now and then as long as the context lasts."""
        async with running_task(self._run(), "reconciler"):
            yield

    async def _run(self) -> None:
        while True:
            await run_in(None, lambda: self.look(time.monotonic()))
            await asyncio.sleep(min(self.grace_s / _LOOKS_PER_GRACE, _LONGEST_PAUSE_S))

    def look(self, now: float) -> int:
        """Looks once, at `now` in seconds, and returns how many links it removed.

        Enters namespaces: for a thread made for it.
        """
        if not self.tools.owner.alone():
            log.warning("another process is %s, too: nothing is cleaned up", self.tools.owner.name)
            self._orphans = {}  # it may have taken them over
            return 0
        seen: dict[_Key, float] = {}
        with ExitStack() as stack:
            home = stack.enter_context(Netns.current())
            due: list[tuple[Netns, list[Link]]] = []
            for pod in Netns.all():
                with ExitStack() as opened:
                    opened.enter_context(pod)
                    if links := self._due_in(pod, home, now, seen):
                        due.append((pod, links))
                        stack.enter_context(opened.pop_all())
            # All rules before any link: a link takes its other end in another namespace along, and with that
            # the routes that tell whose a rule is.
            removed = 0
            for act in (self._remove_rules, self._remove):
                removed = sum(self._act_in(pod, home, links, act) for pod, links in due)
        self._orphans = seen
        return removed

    def _due_in(self, pod: Netns, home: Netns, now: float, seen: dict[_Key, float]) -> list[Link]:
        """Returns the orphans in a namespace whose time is over, and notes the others in `seen`."""
        due = []
        try:
            pod.enter()
            with Channel(pod.label) as theirs:
                for each in self._orphans_of(theirs.ask(link.list_group(self.tools.owner.group)), pod, home):
                    key = (pod.identity, each.index, each.mac)
                    since = self._orphans.get(key, now)
                    if now - since < self.grace_s:
                        seen[key] = since
                    else:
                        due.append(each)
        except NetlinkError as error:
            log.warning("looking for what is left over: %s", error)
            seen.update({key: since for key, since in self._orphans.items() if key[0] == pod.identity})
            return []
        return due

    def _act_in(self, pod: Netns, home: Netns, links: Sequence[Link], act: Callable[[Channel, Link], None]) -> int:
        """Does something to each of these orphans, unless a Request took it over a moment ago or it has gone."""
        done = 0
        try:
            pod.enter()
            with Channel(pod.label) as theirs:
                for each in links:
                    with self.tools.claims:
                        now = link.parse_all(theirs.ask(link.get(each.index, may_be_absent=True)))
                        if not now or now[0].mac != each.mac or self._lives(now[0], pod, home):
                            continue
                        act(theirs, each)
                        done += 1
        except NetlinkError as error:
            log.warning("removing what is left over: %s", error)
        return done

    def _orphans_of(self, answer: Iterable[Message], pod: Netns, home: Netns) -> list[Link]:
        found = [each for each in link.parse_all(answer) if each.group == self.tools.owner.group]
        return [each for each in found if not self._lives(each, pod, home)]

    def _lives(self, each: Link, pod: Netns, home: Netns) -> bool:
        """Says whether a link is an end of an interface of this process, in a pod or here."""
        live = self.tools.live
        return live.has(pod.identity, each.index) or (pod.identity == home.identity and live.has_ours(each.index))

    def _remove_rules(self, theirs: Channel, orphan: Link) -> None:
        tables = _tables_of(theirs, orphan.index)
        if tables:
            with self.tools.tables:
                ours = rule.parse_ours(_flat(theirs.execute(rule.list_all())))
                theirs.execute([rule.remove(one) for one in ours if one.table in tables])

    def _remove(self, theirs: Channel, orphan: Link) -> None:
        theirs.execute([link.delete(orphan.index)])
        log.warning(
            "removed link %s (%s): left by an earlier process, and nobody asked for it in %.0f s",
            orphan.name,
            orphan.alias or "without a mark",
            self.grace_s,
        )


def _tables_of(theirs: Channel, index: int) -> frozenset[int]:
    """Returns the tables, but the main one, in which we made routes through a link."""
    found = route.parse_ours(_flat(theirs.execute(route.list_ours(index=index))))
    return frozenset(one.table for on, one in found if on == index and one.table != MAIN_TABLE)


def _flat(answers: Iterable[Iterable[Message]]) -> list[Message]:
    return [message for answer in answers for message in answer]
