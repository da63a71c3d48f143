"""A rtnetlink socket: many requests in one system call, their answers told apart by number.

pyroute2 encodes and decodes; its own sockets are not used: they send one message a call, through
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from pyroute2.netlink import (
    NETLINK_EXT_ACK,
    NETLINK_GET_STRICT_CHK,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSG_MIN_TYPE,
    SOL_NETLINK,
)
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from forwarder.errors import NetlinkError
from forwarder.netlink.request import Message, Request

_ANSWER_TIMEOUT: Final = struct.pack("@qq", 5, 0)
_RECEIVE_BYTES: Final = 1 << 16
_MOST_AT_ONCE: Final = 64
"""Requests in one system call: their refusals must fit the receive buffer."""
_HEADER_BYTES: Final = 16
_KIND_AND_FLAGS: Final = struct.Struct("=4xHH")


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
            self._exchange(requests, position, end, answers, verdicts)
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
    ) -> None:
        first = self._sequence + 1
        self._sequence += end - begin
        self._marshal.seq_map = {
            first + i: self._choosy(requests[begin + i].only, first + i)
            for i in range(end - begin)
            if requests[begin + i].only
        }
        try:
            # The kernel works in order and tells of every refusal, so the end of the last is the end of all.
            last = end - begin - 1
            self._socket.send(b"".join(requests[begin + i].encode(first + i, ack=i == last) for i in range(last + 1)))
            ended = False
            while not ended:
                for message in self._marshal.parse(self._socket.recv(_RECEIVE_BYTES)):
                    number = message["header"]["sequence_number"] - first
                    if not 0 <= number <= last:
                        continue  # left over from an exchange that failed half-way
                    if message["header"]["type"] in (NLMSG_ERROR, NLMSG_DONE):
                        verdicts[begin + number] = _verdict(message)
                        ended = ended or number == last
                    else:
                        answers[begin + number].append(message)
        except OSError as error:
            what = requests[begin].what
            raise NetlinkError(f"cannot {what} in {self._label}", errno=error.errno or 0) from error

    def _choosy(self, only: tuple[bytes, ...], sequence: int) -> Callable[[bytes, int, int], Any]:
        """Returns a parser for pyroute2 that decodes no more than it has to: it takes 0.1 ms for a link."""

        def parse(data: bytes, offset: int, length: int) -> Any:
            kind, flags = _KIND_AND_FLAGS.unpack_from(data, offset)
            if kind >= NLMSG_MIN_TYPE and not any(data.find(each, offset, offset + length) >= 0 for each in only):
                return None
            return self._marshal.parse_one_message(kind, flags, sequence, data, offset, length)

        return parse

    def close(self) -> None:
        """Closes the socket; does nothing the second time."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _verdict(message: Any) -> _Verdict:
    """Reads NLMSG_ERROR and NLMSG_DONE, with the text of an extended acknowledgement."""
    if "error" in message:
        return _Verdict(-message["error"], message.get_attr("NLMSGERR_ATTR_MSG") or "")
    # the end of a list: a list that broke off says so in a number that pyroute2 leaves alone
    if message["header"]["length"] < _HEADER_BYTES + 4:
        return _Verdict()
    return _Verdict(-struct.unpack_from("=i", message.data, message.offset + _HEADER_BYTES)[0])
