"""What the steps of a Request work with."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from forwarder.clock import Clock
from forwarder.mechanisms import Mechanisms
from forwarder.netns import NetnsWatch
from forwarder.security import TokenSource
from forwarder.service.access import Access
from forwarder.service.datapaths import Datapaths, Wanted
from forwarder.service.next_hops import Dial, NextHops


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the steps work with."""

    name: str
    """Our name on the path."""
    mechanisms: Mechanisms
    datapaths: Datapaths
    datapath: Wanted
    """For a Request that does not say which datapath it wants."""
    next_hops: NextHops
    dial: Dial
    kept: Callable[[str], AbstractContextManager[None]]
    """Keeps the open files that the next hops of a connection, given by our id for it, have sent."""
    tokens: TokenSource
    access: Access
    clock: Clock
    namespaces: NetnsWatch
    priority: Sequence[str]
    """Mechanism types to offer first."""
    default_payload: str
    """For a connection whose payload nobody has told."""
