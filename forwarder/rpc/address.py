"""Where servers listen and channels go: NSM's URLs, and the names gRPC has for them."""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final, Self

from forwarder.errors import InvalidRequest

_HOST_PORT: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%a-z]+\]|[^\[\]:/?#@\s]*):(?P<port>[0-9]{1,5})", re.ASCII)
_INODE: Final = re.compile(r"inode://(?P<device>[0-9]{1,20})/(?P<inode>[0-9]{1,20})", re.ASCII)
_FORMS: Final = "unix:///path, tcp://host:port, host:port or inode://device/inode"
SOCKET_PATH_BYTES: Final = 107
"""Longest path of a unix socket: sockaddr_un.sun_path less the final zero (unix(7))."""


class Family(Enum):
    """What an address names."""

    UNIX = "unix"
    TCP = "tcp"
    INODE = "inode"
    """The socket file with this device and inode number; its path is for us to find."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A place to listen on or to dial."""

    family: Family
    path: str = ""
    """Of a unix socket; absolute."""
    host: str = ""
    """Without brackets; empty for every address of this machine."""
    port: int = 0
    device: int = 0
    inode: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses `unix:///path`, `tcp://host:port`, `host:port` and `inode://device/inode`.

        Raises InvalidRequest for anything else.
        """
        problem = f"address {text!r}"
        scheme, separator, rest = text.partition(":")
        if separator and scheme == "unix":
            path = rest.removeprefix("//")
            if not path.startswith("/") or "\0" in path:
                raise InvalidRequest(f"{problem}: names no absolute path", hint="as in unix:///run/nsm.sock")
            if len(path.encode(errors="surrogateescape")) > SOCKET_PATH_BYTES:
                raise InvalidRequest(f"{problem}: the path is longer than {SOCKET_PATH_BYTES} bytes")
            return cls(family=Family.UNIX, path=path)
        if match := _INODE.fullmatch(text):
            return cls(family=Family.INODE, device=int(match["device"]), inode=int(match["inode"]))
        match = _HOST_PORT.fullmatch(text.removeprefix("tcp://").removesuffix("/"))
        if match is None or int(match["port"]) > 0xFFFF:
            raise InvalidRequest(f"{problem}: not understood", hint=_FORMS)
        return cls(family=Family.TCP, host=match["host"].strip("[]"), port=int(match["port"]))

    def __str__(self) -> str:
        match self.family:
            case Family.UNIX:
                return f"unix://{self.path}"
            case Family.INODE:
                return f"inode://{self.device}/{self.inode}"
            case Family.TCP:
                return f"tcp://{self.host_port}"

    @property
    def host_port(self) -> str:
        """The address as `host:port`, IPv6 in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"
