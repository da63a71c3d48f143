"""Whatever a connection goes through, no line of any log has one of its tokens."""

import logging
from pathlib import Path

import pytest

from forwarder.api.connection_pb2 import MonitorScopeSelector
from forwarder.errors import NextHopError
from forwarder.rpc import NextHop, dial
from forwarder.security import TokenMetadata, UnsignedTokens, claims
from tests.support.domain import domain, kernel, mine, pod


async def test_no_token_is_logged_from_the_first_request_to_the_close(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = TokenMetadata(UnsignedTokens(identity="spiffe://example.org/nsc", lifetime_s=60))
    with caplog.at_level(0):
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
                again.connection.network_service = "no-such-service"
                with pytest.raises(NextHopError):
                    await hop.request(again, timeout_s=10)
                await hop.close(answer, timeout_s=10)
    lines = [logging.Formatter().format(record) for record in caplog.records]
    assert len(lines) > 10
    assert not [line for line in lines if "eyJ" in line]
