"""Selector values that are filled in from a client's labels: `{{.nodeName}}`, `{{ index . "app-name" }}`.

They are Go templates (text/template) over the map of labels. Of that language there are here the
actions that print one thing: a label by its name, a label by `index`, a constant; with trimming,
comments and parentheses. What Go refuses is taken literally, as NSM does, and so is what is Go but
not here (`if`, `range`, pipelines, functions).

Source: Go's text/template; NSM sdk `pkg/tools/matchutils`, which renders selectors.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

NO_VALUE: Final = "<no value>"
"""What Go prints for a label by its name that is not there. By `index` it prints nothing."""

_SPACE: Final = " \t\r\n"
_ACTION: Final = re.compile(
    r"\{\{(?P<left>-(?=[ \t\r\n]))?"
    r"(?P<body>(?:\"(?:\\.|[^\"\\\n])*\"|`[^`]*`|/\*.*?\*/|[^\"`])*?)"
    r"(?P<right>(?<=[ \t\r\n])-)?\}\}",
    re.DOTALL,
)
_FIELDS: Final = re.compile(r"\$?(?P<names>(?:\.[^\W\d]\w*)+)")
_INDEX: Final = re.compile(r"index[ \t\r\n]+(?:\.|\$)[ \t\r\n]+(?P<key>\".*\"|`.*`)", re.DOTALL)
_COMMENT: Final = re.compile(r"/\*(?:(?!\*/).)*\*/", re.DOTALL)
_QUOTED: Final = re.compile(r"\"(?:\\.|[^\"\\\n])*\"|`[^`]*`")
_ESCAPE: Final = re.compile(
    r"\\(?:x(?P<byte>[0-9a-fA-F]{2})|u(?P<short>[0-9a-fA-F]{4})|U(?P<long>[0-9a-fA-F]{8})|(?P<one>.))", re.DOTALL
)
_ONE: Final = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"'}

_Part = Callable[[Mapping[str, str]], str]


class _Refused(ValueError):
    """Go would refuse the template, or we do not know the action."""


def rendered(text: str, labels: Mapping[str, str]) -> str:
    """Returns `text` with its actions filled in from `labels`; `text` itself if it is no template."""
    if "{{" not in text:
        return text
    parts = _parsed(text)
    if parts is None:
        return text
    try:
        return "".join(part(labels) for part in parts)
    except _Refused:
        return text


@lru_cache(maxsize=4096)
def _parsed(text: str) -> tuple[_Part, ...] | None:
    """Splits a template once for all the labels that it is rendered with; None if it is none."""
    parts: list[_Part] = []
    position, trim = 0, False
    try:
        while (start := text.find("{{", position)) >= 0:
            action = _ACTION.match(text, start)
            if action is None:
                raise _Refused("an action is not closed")
            before = text[position:start]
            before = before.lstrip(_SPACE) if trim else before
            parts.append(_literal(before.rstrip(_SPACE) if action["left"] else before))
            parts.append(_action(action))
            position, trim = action.end(), action["right"] is not None
    except _Refused:
        return None
    rest = text[position:]
    parts.append(_literal(rest.lstrip(_SPACE) if trim else rest))
    return tuple(parts)


def _literal(text: str) -> _Part:
    return lambda _labels: text


def _action(action: re.Match[str]) -> _Part:
    body = action["body"]
    # A comment stands right at the delimiters, but for a space that belongs to trimming.
    if _COMMENT.fullmatch(body[bool(action["left"]) : len(body) - bool(action["right"])]):
        return _literal("")
    body = body.strip(_SPACE)
    while body.startswith("(") and body.endswith(")"):
        body = body[1:-1].strip(_SPACE)
    if match := _FIELDS.fullmatch(body):
        return _field(match["names"].split(".")[1:])
    if (match := _INDEX.fullmatch(body)) and _QUOTED.fullmatch(match["key"]):
        key = _unquoted(match["key"])
        return lambda labels: labels.get(key, "")
    if _QUOTED.fullmatch(body):
        return _literal(_unquoted(body))
    raise _Refused(f"action {body!r}")


def _field(names: list[str]) -> _Part:
    def value(labels: Mapping[str, str]) -> str:
        if names[0] not in labels:
            return NO_VALUE
        if len(names) > 1:
            raise _Refused("a label's value has no fields")
        return labels[names[0]]

    return value


def _unquoted(text: str) -> str:
    if text.startswith("`"):
        return text[1:-1].replace("\r", "")

    def plain(escape: re.Match[str]) -> str:
        if code := escape["byte"] or escape["short"] or escape["long"]:
            if int(code, 16) > 0x10FFFF:
                raise _Refused("no such character")
            return chr(int(code, 16))
        if escape["one"] not in _ONE:
            raise _Refused(f"escape {escape[0]}")
        return _ONE[escape["one"]]

    return _ESCAPE.sub(plain, text[1:-1])
