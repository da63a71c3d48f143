"""Notices that a pod of a connection is gone, on either side.

Then nothing can flow any more and nobody will ask to close: the connection is closed at once, not when
it expires. Source: NSM's forwarder, which looks for the endpoint's namespace every 250 ms (nsmonitor).
"""

from collections.abc import Callable
from functools import partial

from forwarder.api.connection_pb2 import Mechanism
from forwarder.api.mechanisms import View
from forwarder.mechanisms import inode_url
from forwarder.mechanisms.inode_url import Identity
from forwarder.netns import NetnsWatch


class Pods:
    """The network namespaces that one connection reaches into."""

    def __init__(self, watch: NetnsWatch, gone: Callable[[str], None]) -> None:
        """Calls `gone` with the URL of the namespace whose pod is gone."""
        self._watch = watch
        self._on_gone = gone
        self._followed: dict[Identity, Callable[[], None]] = {}
        self._gone: Identity | None = None
        self.gone = ""
        """URL of the namespace whose pod is gone; empty while all are there."""

    def follow(self, *mechanisms: Mechanism) -> None:
        """Watches the namespaces that these mechanisms name, and no others any more."""
        urls = [View(mechanism).inode_url for mechanism in mechanisms]
        found = {each[0]: (url, each[1]) for url in urls if url and (each := inode_url.identify(url)) is not None}
        if self._gone not in found:
            self._gone, self.gone = None, ""
        before, self._followed = self._followed, {}
        for identity, (url, path) in found.items():
            if identity != self._gone:
                # Before the old watch ends, so that a namespace that stays is not searched for again.
                self._followed[identity] = self._watch.add(identity, partial(self._left, identity, url), path)
        for stop in before.values():
            stop()

    def close(self) -> None:
        """Watches nothing any more."""
        followed, self._followed = self._followed, {}
        for stop in followed.values():
            stop()

    def _left(self, identity: Identity, url: str) -> None:
        self._gone, self.gone = identity, url
        self._on_gone(url)
