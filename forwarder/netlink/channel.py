"""A rtnetlink socket: many requests in one system call, their answers told apart by number.

The kernel works on a request inside sendmsg(2), so the answers are there when it returns and
nothing here waits; a whole set-up is a handful of system calls. The socket belongs to the
network namespace of the thread that makes the Channel.

Source: netlink(7), linux/netlink.h.
"""

import errno
import os
import socket
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from forwarder.errors import NetlinkError
from forwarder.netlink.message import Message, Request, Verdict, parse_messages, parse_verdict

_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11
_NETLINK_GET_STRICT_CHK: Final = 12
_SO_RCVBUFFORCE: Final = 33
_ANSWER_TIMEOUT: Final = struct.pack("@qq", 5, 0)
_RECEIVE_BYTES: Final = 1 << 16
_MOST_AT_ONCE: Final = 64
"""Requests in one system call: their acknowledgements must fit the receive buffer."""


class Channel:
    """Asks the kernel of one namespace, synchronously. Not for the event loop's thread."""

    __slots__ = ("_label", "_sequence", "_socket")

    def __init__(self, label: str = "our network namespace") -> None:
        """Opens the socket in the calling thread's namespace; `label` names that for messages."""
        self._label = label
        self._sequence = 0
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        except OSError as error:
            raise NetlinkError(f"cannot open a netlink socket in {label}", errno=error.errno or 0) from error
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _ANSWER_TIMEOUT)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)

    def execute(self, requests: Sequence[Request]) -> list[list[Message]]:
        """Sends all requests and returns what each was answered, acknowledgements left out.

        The kernel goes on after a refusal, so everything that could be done is done; then
        NetlinkError tells of the first refusal that its request does not tolerate.
        """
        answers, verdicts = self._ask(requests)
        for request, verdict in zip(requests, verdicts, strict=True):
            if verdict.errno and verdict.errno not in request.tolerate:
                raise self._refusal(request, verdict)
        return answers

    def attempt(self, requests: Sequence[Request]) -> list[NetlinkError | None]:
        """Sends all requests and returns, for each, why it was refused; None when it was done."""
        _, verdicts = self._ask(requests)
        return [
            self._refusal(request, verdict) if verdict.errno and verdict.errno not in request.tolerate else None
            for request, verdict in zip(requests, verdicts, strict=True)
        ]

    def _refusal(self, request: Request, verdict: Verdict) -> NetlinkError:
        said = os.strerror(verdict.errno)
        if verdict.text:
            said += f" ({verdict.text.rstrip('.')})"
        return NetlinkError(
            f"cannot {request.what} in {self._label}",
            errno=verdict.errno,
            detail=said,
            hint="this needs CAP_NET_ADMIN" if verdict.errno == errno.EPERM else "",
        )

    def _ask(self, requests: Sequence[Request]) -> tuple[list[list[Message]], list[Verdict]]:
        answers: list[list[Message]] = [[] for _ in requests]
        verdicts: list[Verdict] = [Verdict(errno=errno.ENODATA, text="no answer")] * len(requests)
        position = 0
        while position < len(requests):
            # a socket runs one dump at a time, so a dump travels alone
            end = position + 1
            if not requests[position].is_dump:
                while end < len(requests) and end - position < _MOST_AT_ONCE and not requests[end].is_dump:
                    end += 1
            self._exchange(requests, position, end, answers, verdicts)
            position = end
        return answers, verdicts

    def _exchange(
        self,
        requests: Sequence[Request],
        begin: int,
        end: int,
        answers: list[list[Message]],
        verdicts: list[Verdict],
    ) -> None:
        first = self._sequence + 1
        self._sequence += end - begin
        try:
            self._socket.send(b"".join(requests[begin + i].encode(first + i) for i in range(end - begin)))
            open_requests = end - begin
            while open_requests:
                for message in parse_messages(self._socket.recv(_RECEIVE_BYTES)):
                    index = begin + message.sequence - first
                    if not begin <= index < end:
                        continue  # left over from an exchange that failed half-way
                    if message.ends:
                        verdicts[index] = parse_verdict(message)
                        open_requests -= 1
                    else:
                        answers[index].append(message)
        except OSError as error:
            what = requests[begin].what
            raise NetlinkError(f"cannot {what} in {self._label}", errno=error.errno or 0) from error

    def close(self) -> None:
        """Closes the socket; does nothing the second time."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
