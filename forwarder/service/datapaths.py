"""Which datapath carries a vWire, and why. Pure.

| wanted | what carries the frames |
| --- | --- |
| `auto` | a datapath without us in it, where there is one for the two mechanisms; else the workers |
| `kernel` | a datapath without us in it; where there is none the Request is refused |
| `redirect` | that one of them; where it cannot be the Request is refused |
| `userspace` | the workers |

The Request's label `datapath` says what is wanted; without it the forwarder's setting does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from forwarder.api.connection_pb2 import Connection
from forwarder.errors import InvalidRequest, MechanismUnsupported
from forwarder.mechanisms import Datapath, Mechanisms

LABEL = "datapath"
"""The label of a Request that says which datapath its vWire shall have."""


class Wanted(StrEnum):
    """What a Request or the forwarder's setting asks for."""

    AUTO = "auto"
    USERSPACE = "userspace"
    KERNEL = "kernel"
    REDIRECT = "redirect"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is wanted, and who wants it."""

    wanted: Wanted = Wanted.AUTO
    origin: str = "the forwarder's setting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A datapath, and why it is the one."""

    datapath: Datapath
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Datapaths:
    """What there is to choose from."""

    mechanisms: Mechanisms
    userspace: Datapath
    direct: Sequence[Datapath] = ()
    """Those without us in them, best first."""


def wish(connection: Connection, default: Wanted) -> Wish:
    """Returns what is wanted for a connection. Raises InvalidRequest for a label that says nothing we know."""
    asked = connection.labels.get(LABEL)
    if asked is None:
        return Wish(wanted=default)
    try:
        return Wish(wanted=Wanted(asked), origin=f"label {LABEL}")
    except ValueError as error:
        raise InvalidRequest(
            f"label {LABEL}={asked!r} names no datapath", detail=f"it is none of {', '.join(Wanted)}"
        ) from error


def choices(wish: Wish, client: str, endpoint: str, datapaths: Datapaths, unfit: Mapping[str, str]) -> list[Choice]:
    """Returns the datapaths to try for two mechanism types, best first; at least one.

    `unfit` tells, by name, why a datapath failed earlier: `auto` does not try it again.
    Raises MechanismUnsupported when what is wanted cannot be.
    """
    pair = f"{client} to {endpoint}"
    told = f"{wish.origin} is {wish.wanted}"
    if wish.wanted is Wanted.USERSPACE:
        return [Choice(datapath=datapaths.userspace, reason=told)]
    direct = [each for each in datapaths.direct if each.carries(client, endpoint)]
    if wish.wanted is Wanted.REDIRECT:
        direct = [each for each in direct if each.name == wish.wanted]
    if wish.wanted in (Wanted.KERNEL, Wanted.REDIRECT):
        if not direct:
            raise MechanismUnsupported(
                f"{told}, and {pair} cannot do without our workers",
                detail=f"without them go {' and '.join(sorted({each.name for each in datapaths.direct})) or 'none'}",
                hint=f"ask for {Wanted.AUTO} or {Wanted.USERSPACE}",
            )
        return [Choice(datapath=each, reason=told) for each in direct]
    found = [
        Choice(datapath=each, reason=f"{pair} on one node, and nothing asks for more")
        for each in direct
        if each.name not in unfit
    ]
    why = "; ".join(unfit[each.name] for each in direct if each.name in unfit)
    found.append(Choice(datapath=datapaths.userspace, reason=why or f"{pair} cannot do without our workers"))
    return found
