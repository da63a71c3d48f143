"""What is asked of the kernel, as plain values that pyroute2 turns into a message.

A Request holds no message, so that it can be compared, shown, sent twice and made on any thread.

Source: netlink(7), rtnetlink(7).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

CREATE: Final[int] = NLM_F_CREATE
EXCLUSIVE: Final[int] = NLM_F_CREATE | NLM_F_EXCL
REPLACE: Final[int] = NLM_F_CREATE | NLM_F_REPLACE
DUMP: Final[int] = NLM_F_DUMP

Attributes = tuple[tuple[str, Any], ...]
"""Name, as pyroute2 and the kernel's headers have it, and value; a nest of attributes is a tuple of these."""


class Message(Protocol):
    """A message from the kernel, decoded by pyroute2 as far as it is looked at."""

    def __getitem__(self, name: str) -> Any:
        """Returns a field of the fixed part."""
        ...

    def get_attr(self, name: str, default: object = None) -> Any:
        """Returns the first attribute of this name."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question or order to the kernel, not sent yet."""

    type: int
    """An RTM_ number."""
    flags: int = 0
    """NLM_F_ flags beside REQUEST and ACK."""
    fields: Mapping[str, int] = field(default_factory=dict)
    """Of the fixed part; those left out are zero."""
    attributes: Attributes = ()
    what: str
    """Verb and object, for messages: "add address 10.0.0.1/32 to nsm-1"."""
    tolerate: frozenset[int] = frozenset()
    """Error numbers that mean that it is so already; then there is no reply and no failure."""
    only: tuple[bytes, ...] = ()
    """Answers without any of these bytes in them are left out before they are decoded."""

    @property
    def is_dump(self) -> bool:
        """Whether the answer is a list of any length: RTM_ numbers come in fours, the third asks."""
        return self.type & 3 == 2 and self.flags & DUMP == DUMP

    def encode(self, sequence: int, *, ack: bool = True) -> bytes:
        """Returns the message as it goes to the kernel, which answers with `sequence`.

        Without `ack` it says nothing when all went well; what ends a list by itself is never acknowledged.
        """
        message = MarshalRtnl.msg_map[self.type]()
        for name, _ in self.attributes:
            assert message.valid_nla(name), name  # pyroute2 would leave it out without a word
        message.update(self.fields)
        message["attrs"] = _attributes(self.attributes)
        message["header"] = {
            "type": self.type,
            "flags": self.flags | NLM_F_REQUEST | (NLM_F_ACK if ack and not self.is_dump else 0),
            "sequence_number": sequence,
            "pid": 0,
        }
        message.encode()
        return bytes(message.data)


def _attributes(given: Attributes) -> list[Any]:
    """Makes the lists that pyroute2 writes into while it encodes."""
    return [(name, {"attrs": _attributes(value)} if isinstance(value, tuple) else value) for name, value in given]
