"""Exceptions to gRPC status codes, and status codes to NextHopError. One table, both ways.

What is not in the tree of `forwarder.errors` is a bug of ours: the peer gets INTERNAL and no
more, the log gets the stack.
"""

import errno
import logging
from typing import Final

import grpc

from forwarder.api.redact import redact
from forwarder.errors import (
    ConfigError,
    ConnectionNotFound,
    DataplaneError,
    EndpointNotFound,
    ForwarderError,
    InvalidRequest,
    LocalProtocolError,
    MechanismUnsupported,
    NameTaken,
    NetlinkError,
    NextHopError,
    NotAuthorized,
    PolicyError,
    ProtocolError,
    RemoteProtocolError,
    RequestError,
)

log = logging.getLogger(__name__)

DETAIL_BYTES: Final = 2048
"""A status travels in HTTP/2 trailers, which peers bound at 8 KiB; each byte may be escaped to three."""

CODES: Final[dict[type[ForwarderError], grpc.StatusCode]] = {
    ForwarderError: grpc.StatusCode.UNKNOWN,
    ConfigError: grpc.StatusCode.FAILED_PRECONDITION,
    RequestError: grpc.StatusCode.INVALID_ARGUMENT,
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    NameTaken: grpc.StatusCode.ALREADY_EXISTS,
    MechanismUnsupported: grpc.StatusCode.FAILED_PRECONDITION,
    NotAuthorized: grpc.StatusCode.PERMISSION_DENIED,
    ConnectionNotFound: grpc.StatusCode.NOT_FOUND,
    EndpointNotFound: grpc.StatusCode.NOT_FOUND,
    PolicyError: grpc.StatusCode.INTERNAL,
    ProtocolError: grpc.StatusCode.INTERNAL,
    RemoteProtocolError: grpc.StatusCode.INTERNAL,
    LocalProtocolError: grpc.StatusCode.INTERNAL,
    DataplaneError: grpc.StatusCode.INTERNAL,
    NetlinkError: grpc.StatusCode.INTERNAL,
    NextHopError: grpc.StatusCode.UNKNOWN,
}
"""The code of each exception; NextHopError passes on its own, and an errno in ERRNO_CODES goes first."""

ERRNO_CODES: Final[dict[int, grpc.StatusCode]] = {
    errno.EPERM: grpc.StatusCode.FAILED_PRECONDITION,  # the forwarder lacks a privilege, not the caller
    errno.EACCES: grpc.StatusCode.FAILED_PRECONDITION,
    errno.EEXIST: grpc.StatusCode.ALREADY_EXISTS,
    errno.EADDRINUSE: grpc.StatusCode.ALREADY_EXISTS,
    errno.EADDRNOTAVAIL: grpc.StatusCode.FAILED_PRECONDITION,
    errno.EBUSY: grpc.StatusCode.UNAVAILABLE,
    errno.EINVAL: grpc.StatusCode.INVALID_ARGUMENT,
    errno.ENAMETOOLONG: grpc.StatusCode.INVALID_ARGUMENT,
    errno.ENOENT: grpc.StatusCode.NOT_FOUND,
    errno.ENODEV: grpc.StatusCode.NOT_FOUND,
    errno.ENXIO: grpc.StatusCode.NOT_FOUND,
    errno.ESRCH: grpc.StatusCode.NOT_FOUND,
    errno.EMFILE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errno.ENFILE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errno.ENOBUFS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errno.ENOMEM: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errno.ENOSPC: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errno.EOPNOTSUPP: grpc.StatusCode.UNIMPLEMENTED,
    errno.ETIMEDOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
}


def of(error: BaseException) -> tuple[grpc.StatusCode, str]:
    """Returns the status that a peer gets for `error`: its code and its detail.

    Logs the stack of what is not a ForwarderError, and tells the peer nothing of it.
    """
    match error:
        case NextHopError():
            code = grpc.StatusCode.__members__.get(error.status, CODES[NextHopError])
            # OK and CANCELLED would say that this call went well, or that its caller gave up.
            if code in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED):
                code = CODES[NextHopError]
        case ForwarderError():
            number = error.errno if isinstance(error, OSError) else None
            code = ERRNO_CODES.get(number or 0) or _code_of(type(error))
        case TimeoutError():
            return grpc.StatusCode.DEADLINE_EXCEEDED, _bounded(str(error) or "the deadline passed")
        case ExceptionGroup() if (first := _only_known(error)) is not None:
            return of(first)
        case _:
            log.error("an RPC failed with an unexpected exception", exc_info=error)
            return grpc.StatusCode.INTERNAL, "internal error"
    return code, _bounded(str(error))


def next_hop_error(error: grpc.RpcError, what: str) -> NextHopError:
    """Returns the exception for the status that a server answered with; `what` says who was asked what."""
    code, detail = grpc.StatusCode.UNKNOWN, ""
    if isinstance(error, grpc.aio.AioRpcError):
        code, detail = error.code(), error.details() or ""
    return NextHopError(f"{what} failed with {code.name}", status=code.name, detail=detail)


def _code_of(kind: type[ForwarderError]) -> grpc.StatusCode:
    for ancestor in kind.__mro__:
        if ancestor in CODES:
            return CODES[ancestor]
    return CODES[ForwarderError]


def _only_known(group: ExceptionGroup) -> Exception | None:
    """Returns the first leaf of a group that holds nothing but exceptions of the tree."""
    known, rest = group.split((ForwarderError, TimeoutError))
    if known is None or rest is not None:
        return None
    leaf: Exception = known
    while isinstance(leaf, ExceptionGroup):
        leaf = leaf.exceptions[0]
    return leaf


def _bounded(text: str) -> str:
    text = redact(text)
    data = text.encode(errors="replace")
    if len(data) <= DETAIL_BYTES:
        return text
    return data[:DETAIL_BYTES].decode(errors="ignore") + "…"
