"""What is asked of the kernel, as plain values that are turned into a message.

A Request holds no message, so that it can be compared, shown, sent twice and made on any thread.

Source: netlink(7), rtnetlink(7).
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, Protocol

from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from forwarder.netlink.attributes import Attributes, encode

CREATE: Final[int] = NLM_F_CREATE
EXCLUSIVE: Final[int] = NLM_F_CREATE | NLM_F_EXCL
REPLACE: Final[int] = NLM_F_CREATE | NLM_F_REPLACE
DUMP: Final[int] = NLM_F_DUMP

_HEADER: Final = struct.Struct("=IHHII")
"""`struct nlmsghdr`: length, type, flags, sequence, port."""


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
        flags = self.flags | NLM_F_REQUEST | (NLM_F_ACK if ack and not self.is_dump else 0)
        body = _fixed_part(self.type, self.fields) + encode(self.attributes)
        return _HEADER.pack(_HEADER.size + len(body), self.type, flags, sequence, 0) + body


def _fixed_part(kind: int, fields: Mapping[str, int]) -> bytes:
    """Packs what stands before the attributes; what pyroute2 calls __something is padding."""
    layout, names = _layout(kind)
    return layout.pack(*[fields.get(name, 0) for name in names])


@cache
def _layout(kind: int) -> tuple[struct.Struct, tuple[str, ...]]:
    fields = MarshalRtnl.msg_map[kind].fields
    return (
        struct.Struct("=" + "".join(code for _, code in fields)),
        tuple(name for name, code in fields if not code.endswith("x")),
    )
