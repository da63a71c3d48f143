"""Whatever a connection goes through, no line of any log has one of its tokens."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from forwarder.api.connection_pb2 import MonitorScopeSelector
from forwarder.errors import NextHopError
from forwarder.rpc import NextHop, dial
from forwarder.security import TokenMetadata, UnsignedTokens, claims
from tests.support.domain import domain, kernel, mine, pod


class Lines(logging.Handler):
    """Keeps what is logged, as text: records would keep what they are about alive."""

    def __init__(self) -> None:
        super().__init__(0)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@contextmanager
def everything_logged() -> Iterator[list[str]]:
    """Takes the place of every other handler while it lasts."""
    handler, root = Lines(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG)
    try:
        yield handler.lines
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


async def test_no_token_is_logged_from_the_first_request_to_the_close(tmp_path: Path) -> None:
    tokens = TokenMetadata(UnsignedTokens(identity="spiffe://example.org/nsc", lifetime_s=60))
    with everything_logged() as told:
        await live_and_die(tmp_path, tokens)
    assert len(told) > 5
    assert not [line for line in told if "eyJ" in line]


async def live_and_die(tmp_path: Path, tokens: TokenMetadata) -> None:
    """A connection's whole life, with a Request that is refused beside it."""
    async with domain(tmp_path) as mesh, dial(mesh.url, credentials=tokens) as channel:
        hop = NextHop(channel)
        with pod() as netns:
            answer = await hop.request(mesh.request(kernel(netns)), timeout_s=10)
            for segment in answer.path.path_segments:
                assert claims(segment.token).subject
            async with hop.monitor(MonitorScopeSelector()) as events:
                assert mine(answer) in (await anext(events)).connections
            again = mesh.request(kernel(netns))
            again.connection.CopyFrom(answer)
            await hop.request(again, timeout_s=10)
            refused = mesh.request(kernel(netns), client="other", network_service="no-such-service")
            with pytest.raises(NextHopError):
                await hop.request(refused, timeout_s=10)
            await hop.close(answer, timeout_s=10)
