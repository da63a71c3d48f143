"""What is asked of the kernel, as plain values that pyroute2 turns into a message.

A Request holds no message, so that it can be compared, shown, sent twice and made on any thread.

Source: netlink(7), rtnetlink(7).
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, Final, Protocol

from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

CREATE: Final[int] = NLM_F_CREATE
EXCLUSIVE: Final[int] = NLM_F_CREATE | NLM_F_EXCL
REPLACE: Final[int] = NLM_F_CREATE | NLM_F_REPLACE
DUMP: Final[int] = NLM_F_DUMP

_HEADER: Final = struct.Struct("=IHHII")
"""`struct nlmsghdr`: length, type, flags, sequence, port."""

_CHOSEN_BY_KIND: Final = "TCA_OPTIONS"
"""The one attribute here that pyroute2 encodes by what another, TCA_KIND, says."""

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
        flags = self.flags | NLM_F_REQUEST | (NLM_F_ACK if ack and not self.is_dump else 0)
        family = self.fields.get("family", 0)
        together = any(name == _CHOSEN_BY_KIND for name, _ in self.attributes)
        groups = (self.attributes,) if together else ((each,) for each in self.attributes)
        body = _fixed_part(self.type, self.fields) + b"".join(_encoded(self.type, family, each) for each in groups)
        return _HEADER.pack(_HEADER.size + len(body), self.type, flags, sequence, 0) + body


def _fixed_part(kind: int, fields: Mapping[str, int]) -> bytes:
    """Packs what stands before the attributes; what pyroute2 calls __something is padding."""
    layout, names = _layout(kind)
    return layout.pack(*(fields.get(name, 0) for name in names))


@cache
def _layout(kind: int) -> tuple[struct.Struct, tuple[str, ...]]:
    fields = MarshalRtnl.msg_map[kind].fields
    return (
        struct.Struct("=" + "".join(code for _, code in fields)),
        tuple(name for name, code in fields if not code.endswith("x")),
    )


@lru_cache(maxsize=1024)
def _encoded(kind: int, family: int, attributes: Attributes) -> bytes:
    """Encodes attributes whose encoding depends on nothing else of the message but its family.

    Remembered, because the same few come with every vWire and pyroute2 takes 0.05 ms for one.
    """
    message = MarshalRtnl.msg_map[kind]()
    for name, _ in attributes:
        assert message.valid_nla(name), name  # pyroute2 would leave it out without a word
    message["family"] = family
    message["attrs"] = _attributes(attributes)
    message.encode()
    encoded = bytes(message.data)[_HEADER.size + _layout(kind)[0].size :]
    return encoded.ljust((len(encoded) + 3) & ~3, b"\0")


def _attributes(given: Attributes) -> list[Any]:
    """Makes the lists that pyroute2 writes into while it encodes."""
    return [(name, {"attrs": _attributes(value)} if isinstance(value, tuple) else value) for name, value in given]
