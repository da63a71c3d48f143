"""Which mechanisms a Request allows on either side of us. Pure.

We have two mechanisms per connection: one that the caller chose from what we support, and one
that the next hop chose from what we offer.
"""

from collections.abc import Iterable, Sequence

from forwarder.api import constants
from forwarder.api.connection_pb2 import Connection, Mechanism
from forwarder.api.context import Side
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.api.path import copy
from forwarder.errors import InvalidRequest, MechanismUnsupported, RemoteProtocolError, RequestError
from forwarder.mechanisms import Mechanisms
from forwarder.service.statistics import ENDPOINT_INTERFACE

ORDER = (
    constants.MEMIF,
    constants.KERNEL,
    constants.VXLAN,
    constants.WIREGUARD,
    constants.IPSEC,
    constants.VLAN,
)
"""Offered to the next hop in this order, as forwarder-vpp does."""

_LOCAL_SCHEMES = ("unix", "inode")


def asked_by_caller(request: NetworkServiceRequest, mechanisms: Mechanisms) -> list[Mechanism]:
    """Returns the mechanisms that may be used towards the caller, best first; at least one.

    That is the connection's, if it has one already, otherwise those of the preferences that
    we support and whose parameters are right.
    Raises MechanismUnsupported when there is none. When all that we support had wrong parameters,
    raises the InvalidRequest that tells of the first.
    """
    agreed = request.connection.mechanism
    asked = [agreed] if agreed.type else list(request.mechanism_preferences)
    if not asked:
        raise InvalidRequest("the request asks for no mechanism: neither connection.mechanism nor preferences")
    usable: list[Mechanism] = []
    refused: list[RequestError] = []
    for mechanism in asked:
        supported = mechanisms.get(mechanism.type)
        if supported is None:
            continue
        try:
            supported.check(mechanism, Side.CLIENT)
        except RequestError as error:
            refused.append(error)
        else:
            usable.append(copy(mechanism))
    if usable:
        return usable
    if refused:
        raise refused[0]
    raise unsupported([each.type for each in asked], mechanisms)


def unsupported(types: Sequence[str], mechanisms: Mechanisms, detail: str = "") -> MechanismUnsupported:
    """Makes the error for a Request none of whose mechanisms can be used."""
    return MechanismUnsupported(
        f"cannot support any of the requested mechanism: {', '.join(each or 'unnamed' for each in types)}",
        detail=detail,
        hint=f"supported are {', '.join(sorted(mechanisms)) or 'none'}",
    )


def offered_to(
    url: str, connection: Connection, mechanisms: Mechanisms, priority: Sequence[str] = ()
) -> list[Mechanism]:
    """Returns the preferences for the next hop at `url`, in order.

    A next hop on this node (unix, inode) can be given local mechanisms only, any other only remote
    ones. Types in `priority` come first, in its order.
    Raises MechanismUnsupported when nothing is left to offer.
    """
    local = url.partition(":")[0] in _LOCAL_SCHEMES
    wanted_cls = constants.LOCAL if local else constants.REMOTE
    known = [mechanisms[each] for each in ORDER if each in mechanisms]
    known += [mechanism for name, mechanism in mechanisms.items() if name not in ORDER]
    preferences = [mechanism.preference(connection) for mechanism in known]
    offered = [each for each in preferences if each.cls == wanted_cls and _fits(each.type, connection.payload)]
    if not offered:
        raise MechanismUnsupported(
            f"no {wanted_cls} mechanism can be offered to the next hop {url}",
            detail=f"this forwarder has {', '.join(f'{each.type} ({each.cls})' for each in preferences) or 'none'}",
            hint="a next hop on the same node is reached by a unix URL" if not local else "",
        )
    rank = {name: place for place, name in enumerate(priority)}
    return sorted(offered, key=lambda each: rank.get(each.type, len(rank)))


def name_as_before(offered: Iterable[Mechanism], connection: Connection) -> None:
    """Asks for the interface that our path segment tells of, if it does.

    A refresh that comes after a restart of ours carries what we wrote before it. Without a name in our
    preference the endpoint would think of a new one, and its interface would be replaced.
    """
    metrics = connection.path.path_segments[connection.path.index].metrics
    kind, _, name = metrics.get(ENDPOINT_INTERFACE, "").partition("/")
    if kind != constants.KERNEL or not name:
        return
    for mechanism in offered:
        if mechanism.type == kind and "name" not in mechanism.parameters:
            mechanism.parameters["name"] = name


def _fits(mechanism_type: str, payload: str) -> bool:
    only = {constants.VXLAN: constants.ETHERNET, constants.IPSEC: constants.IP}.get(mechanism_type, payload)
    return only == payload


def chosen_by_next_hop(answer: Connection, offered: Sequence[Mechanism], mechanisms: Mechanisms) -> Mechanism:
    """Returns the mechanism that the next hop's answer names.

    Raises RemoteProtocolError when it names none, one that was not offered, or wrong parameters.
    """
    types = [each.type for each in offered]
    if answer.mechanism.type not in types:
        raise RemoteProtocolError(
            f"the next hop chose the mechanism {answer.mechanism.type!r}, offered were {', '.join(types)}"
        )
    try:
        mechanisms[answer.mechanism.type].check(answer.mechanism, Side.ENDPOINT)
    except InvalidRequest as error:
        raise RemoteProtocolError(
            f"the next hop answered with an unusable {answer.mechanism.type}", detail=str(error)
        ) from error
    return copy(answer.mechanism)


def with_held_parameters(asked: Mechanism, held: Mechanism | None) -> Mechanism:
    """Returns what `asked` means when `held` is in use: `held`, if it is what was asked for and more.

    A caller that lost our answer repeats its preference, without the parameters that we chose.
    """
    if (
        held is not None
        and asked.type == held.type
        and all(held.parameters.get(key) == value for key, value in asked.parameters.items())
    ):
        return copy(held)
    return copy(asked)
