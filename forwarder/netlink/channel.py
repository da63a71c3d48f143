"""A rtnetlink socket: many requests in one system call, their answers told apart by number.

pyroute2 decodes what `wire` does not; its own sockets are not used: they send one message a call, through
an event loop of their own, and cost more to open than all the messages of a small change. The
kernel works on a request inside sendmsg(2), so the answers are there when it returns and nothing
here waits; a whole set-up is a handful of system calls. The socket belongs to the network
namespace of the thread that makes the Channel.

Source: netlink(7), linux/netlink.h.
"""

import errno
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from pyroute2.netlink import (
    NETLINK_EXT_ACK,
    NETLINK_GET_STRICT_CHK,
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    SOL_NETLINK,
)
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from forwarder.errors import NetlinkError
from forwarder.netlink import wire
from forwarder.netlink.request import Message, Request

_ANSWER_TIMEOUT: Final = struct.pack("@qq", 5, 0)
_RECEIVE_BYTES: Final = 1 << 16
_MOST_AT_ONCE: Final = 64
"""Requests in one system call: their refusals must fit the receive buffer."""
_MOST_LISTINGS: Final = 8
"""How often a list is asked for that changes while it is read."""
_NUMBER: Final = struct.Struct("=i")


@dataclass(frozen=True, slots=True)
class _Verdict:
    """The kernel's last word on a request."""

    errno: int = 0
    text: str = ""


class Channel:
    """Asks the kernel of one namespace, synchronously. Not for the event loop's thread."""

    __slots__ = ("_label", "_marshal", "_sequence", "_socket")

    def __init__(self, label: str = "our network namespace") -> None:
        """Opens the socket in the calling thread's namespace; `label` names that for messages."""
        self._label = label
        self._sequence = 0
        self._marshal = MarshalRtnl()
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        except OSError as error:
            raise NetlinkError(f"cannot open a netlink socket in {label}", errno=error.errno or 0) from error
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _ANSWER_TIMEOUT)
        for option in (NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)

    def execute(self, requests: Sequence[Request]) -> list[list[Message]]:
        """Sends all requests and returns what each was answered, acknowledgements left out.

        The kernel goes on after a refusal, so everything that could be done is done; then
        NetlinkError tells of the first refusal that its request does not tolerate.
        """
        answers, refusals = self._ask(requests)
        for refusal in refusals:
            if refusal is not None:
                raise refusal
        return answers

    def attempt(self, requests: Sequence[Request]) -> list[NetlinkError | None]:
        """Sends all requests and returns, for each, why it was refused; None when it was done."""
        return self._ask(requests)[1]

    def ask(self, request: Request) -> list[Message]:
        """Sends one request and returns what it was answered. Raises NetlinkError as `execute` does."""
        return self.execute([request])[0]

    def _ask(self, requests: Sequence[Request]) -> tuple[list[list[Message]], list[NetlinkError | None]]:
        answers: list[list[Message]] = [[] for _ in requests]
        verdicts = [_Verdict()] * len(requests)
        position = 0
        while position < len(requests):
            # a socket runs one dump at a time, so a dump travels alone
            end = position + 1
            if not requests[position].is_dump:
                while end < len(requests) and end - position < _MOST_AT_ONCE and not requests[end].is_dump:
                    end += 1
            listings = 1
            while self._exchange(requests, position, end, answers, verdicts):
                if listings == _MOST_LISTINGS:
                    raise NetlinkError(
                        f"cannot {requests[position].what} in {self._label}",
                        errno=errno.EAGAIN,
                        detail=f"it changed each of the {listings} times while it was read",
                    )
                answers[position].clear()
                listings += 1
            position = end
        refusals = [
            self._refusal(request, verdict) if verdict.errno and verdict.errno not in request.tolerate else None
            for request, verdict in zip(requests, verdicts, strict=True)
        ]
        return answers, refusals

    def _refusal(self, request: Request, verdict: _Verdict) -> NetlinkError:
        said = os.strerror(verdict.errno)
        if verdict.text:
            said += f" ({verdict.text.rstrip('.')})"
        return NetlinkError(
            f"cannot {request.what} in {self._label}",
            errno=verdict.errno,
            detail=said,
            hint="this needs CAP_NET_ADMIN" if verdict.errno == errno.EPERM else "",
        )

    def _exchange(
        self,
        requests: Sequence[Request],
        begin: int,
        end: int,
        answers: list[list[Message]],
        verdicts: list[_Verdict],
    ) -> bool:
        """Returns whether something changed while the kernel listed it: entries may be missing then, or twice there."""
        first = self._sequence + 1
        self._sequence += end - begin
        try:
            # The kernel works in order and tells of every refusal, so the end of the last is the end of all.
            last = end - begin - 1
            self._socket.send(b"".join(requests[begin + i].encode(first + i, ack=i == last) for i in range(last + 1)))
            ended = torn = False
            while not ended:
                data = self._socket.recv(_RECEIVE_BYTES)
                for piece in wire.pieces(data):
                    number = piece.sequence - first
                    if not 0 <= number <= last:
                        continue  # left over from an exchange that failed half-way
                    torn = torn or bool(piece.flags & NLM_F_DUMP_INTR)
                    if piece.kind in (NLMSG_ERROR, NLMSG_DONE):
                        verdicts[begin + number] = self._verdict(data, piece, requests[begin + number].tolerate)
                        ended = ended or number == last
                    elif _may_be_meant(data, piece, requests[begin + number].only):
                        answers[begin + number].append(self._decode(data, piece))
        except OSError as error:
            what = requests[begin].what
            raise NetlinkError(f"cannot {what} in {self._label}", errno=error.errno or 0) from error
        return torn

    def _decode(self, data: bytes, piece: wire.Piece) -> Message:
        """Reads a link itself; pyroute2 takes 0.25 ms for one."""
        if piece.kind in wire.READ:
            return wire.ReadMessage(piece.kind, piece.body(data))
        message: Message = self._marshal.parse_one_message(
            piece.kind, piece.flags, piece.sequence, data, piece.offset, piece.length
        )
        return message

    def _verdict(self, data: bytes, piece: wire.Piece, tolerated: frozenset[int]) -> _Verdict:
        """Reads NLMSG_ERROR and NLMSG_DONE, with the text of an extended acknowledgement if that will be told."""
        if piece.length < wire.HEADER_BYTES + _NUMBER.size:
            return _Verdict()  # the end of a list, of the oldest form
        (number,) = _NUMBER.unpack_from(data, piece.offset + wire.HEADER_BYTES)
        if not number or -number in tolerated or piece.kind == NLMSG_DONE:
            return _Verdict(-number)
        return _Verdict(-number, self._decode(data, piece).get_attr("NLMSGERR_ATTR_MSG") or "")

    def close(self) -> None:
        """Closes the socket; does nothing the second time."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _may_be_meant(data: bytes, piece: wire.Piece, only: tuple[bytes, ...]) -> bool:
    """Says whether a message has any of the bytes that are asked for."""
    return not only or any(data.find(each, piece.offset, piece.offset + piece.length) >= 0 for each in only)
