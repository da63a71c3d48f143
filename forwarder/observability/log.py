"""Logging: one line per event, with the connection it is about, and a level that signals change."""

import logging
import sys
from typing import TextIO

from forwarder.api.redact import redact
from forwarder.connection.current import connection_id

_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s%(connection)s: %(message)s"
_SHORT_FORMAT = "%(name)s%(connection)s: %(message)s"
_TIME = "%H:%M:%S"

_level = logging.INFO


class ConnectionFilter(logging.Filter):
    """Adds the connection that the running task works for, so that no call has to pass it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Sets `record.connection`; lets everything through."""
        current = connection_id.get()
        record.connection = f" [{current}]" if current else ""
        return True


class _Lines(logging.Formatter):
    """Writes logger names without the package's, and no tokens, wherever they may come from."""

    def format(self, record: logging.LogRecord) -> str:
        record.name = record.name.removeprefix("forwarder.")
        return redact(super().format(record))


def set_up(level: str, stream: TextIO | None = None, handler: logging.Handler | None = None) -> None:
    """Makes the root logger write to `stream` (stderr), or through `handler`, from `level` up."""
    global _level  # noqa: PLW0603 - the process has one logging configuration
    _level = logging.getLevelNamesMapping()[level]
    # No line shows these, and each record would be asked for them.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    is_plain = handler is None
    handler = handler or logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(ConnectionFilter())
    # A handler that was given shows time and level itself.
    handler.setFormatter(_Lines(_FORMAT if is_plain else _SHORT_FORMAT, _TIME))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(_level)


def raise_level() -> None:
    """Logs everything, until `restore_level`."""
    logging.getLogger().setLevel(logging.DEBUG)
    logging.getLogger("vwire").info("logging everything until SIGUSR2")


def restore_level() -> None:
    """Goes back to the configured level."""
    logging.getLogger("vwire").info("logging from level %s again", logging.getLevelName(_level))
    logging.getLogger().setLevel(_level)
