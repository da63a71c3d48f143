"""Which connection the running task works for: log filters and spans read it."""

from contextvars import ContextVar

connection_id: ContextVar[str] = ContextVar("connection_id", default="")
"""The own segment's connection id, empty outside a Request, Close or timer."""
