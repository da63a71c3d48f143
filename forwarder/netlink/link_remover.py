"""Deletes links in company: whoever comes while a deletion runs joins the next one.

The kernel waits for packets in flight at each deletion, holding the lock that every other change
of links needs. Fifty links deleted together wait once.
"""

import logging
import threading
from collections import deque

from forwarder.errors import NetlinkError
from forwarder.netlink import link
from forwarder.netlink.channel import Channel

log = logging.getLogger(__name__)


class LinkRemover:
    """Deletes links of our own namespace. Called from any thread but the event loop's."""

    def __init__(self) -> None:
        self._waiting: deque[int] = deque()
        self._turn = threading.Lock()

    def remove(self, index: int) -> None:
        """Returns when the link is gone; one that was gone already is fine. Raises NetlinkError."""
        self._waiting.append(index)
        with self._turn:
            together = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if not together:
                return  # whoever had the turn before took our link along
            with Channel() as channel:
                try:
                    channel.execute(link.delete_together(together))
                except NetlinkError as error:
                    log.warning("deleting links one by one: %s", error)
                    channel.execute([link.delete(each) for each in together])
