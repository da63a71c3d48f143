"""A log line says when, how bad, who, for which connection, and what."""

import io
import logging

import pytest

from forwarder.connection.current import connection_id
from forwarder.observability import log


@pytest.fixture
def stream():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    text = io.StringIO()
    log.set_up("WARNING", text)
    yield text
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_names_the_room_and_the_connection(stream):
    token = connection_id.set("c-1")
    logging.getLogger("forwarder.service.request").warning("it took %d ms", 3)
    connection_id.reset(token)
    logging.getLogger("forwarder.service.request").warning("idle")
    first, second = stream.getvalue().splitlines()
    assert first.endswith(" WARNING service.request [c-1]: it took 3 ms")
    assert second.endswith(" WARNING service.request: idle")


def test_the_level_can_be_raised_and_restored(stream):
    logger = logging.getLogger("forwarder.x")
    logger.info("not told")
    log.raise_level()
    logger.debug("told")
    log.restore_level()
    logger.debug("not told")
    assert [line.rpartition(": ")[2] for line in stream.getvalue().splitlines()] == [
        "logging everything until SIGUSR2",
        "told",
        "logging from level WARNING again",
    ]
