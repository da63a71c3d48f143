"""Finds the network namespace that a user names."""

from forwarder.errors import ConfigError, NetlinkError
from forwarder.netns import Netns


def open_namespace(text: str) -> Netns:
    """Opens a namespace by process id, path or name; an empty text is our own.

    `1234` is the namespace of that process, `/proc/1234/ns/net` and `./file` are paths, anything
    else is a name as `ip netns` uses them. Raises ConfigError that says what was looked for.
    """
    try:
        if not text:
            return Netns.current()
        if text.isascii() and text.isdecimal():
            return Netns.of_pid(int(text))
        if "/" in text:
            return Netns.at_path(text)
        return Netns.named(text)
    except NetlinkError as error:
        raise ConfigError(
            f"network namespace {text!r}",
            detail=str(error),
            hint="a process id, a path with a slash, or a name under /run/netns",
        ) from error
