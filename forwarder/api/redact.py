"""Tokens have no place in logs and errors: who reads one may use it until it expires."""

import re
from typing import Final

_START: Final = "eyJ"
"""How JSON that begins with `{"` begins in base64url, and so every JWT."""
_JWT: Final = re.compile(rf"{_START}[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]*)*")


def redact(text: str) -> str:
    """Returns `text` with every JWT in it replaced by `(token)`."""
    return _JWT.sub("(token)", text) if _START in text else text
