"""The URL by which a workload asks for a network service.

    <mechanism>://<service>[@<domain>][/<interface name>][?label=value&label=value]

Source: Network Service Mesh sdk, `pkg/tools/nsurl`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Self
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from forwarder.api import constants
from forwarder.api.connection_pb2 import Connection, Mechanism
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.errors import InvalidRequest

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*", re.ASCII)
_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})", re.ASCII)
_UNPRINTABLE: Final = re.compile(r"[\x00-\x20\x7f]")
_NAME: Final = re.compile(r"[^/?#@:\[\]\s\x00-\x1f\x7f]+")
_FORM: Final = "kernel://service/nsm-1?label=value"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkServiceURL:
    """A request for a network service, as text."""

    mechanism: str
    """Mechanism type in upper case, `KERNEL`."""
    network_service: str
    """`name` or `name@domain`."""
    interface: str | None = None
    """Name for the interface; None if the URL leaves it open."""
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises InvalidRequest for a mechanism or service that no URL can express."""
        if not _SCHEME.fullmatch(self.mechanism):
            raise InvalidRequest(f"network service URL: {self.mechanism!r} is no mechanism type", hint=f"as in {_FORM}")
        name, _, domain = self.network_service.partition("@")
        if not _NAME.fullmatch(name) or not _NAME.fullmatch(domain or "-") or self.network_service.endswith("@"):
            raise InvalidRequest(f"network service URL: {self.network_service!r} is no name or name@domain")
        if self.interface is not None and "/" in self.interface:
            raise InvalidRequest(f"network service URL: interface name {self.interface!r} contains a slash")
        object.__setattr__(self, "mechanism", self.mechanism.upper())
        object.__setattr__(self, "labels", MappingProxyType(dict(self.labels)))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses a network service URL.

        The last element of the path is the interface's name; a port and a password are ignored;
        values of a repeated label are joined by commas.
        Raises InvalidRequest that names what is wrong.
        """
        problem = f"network service URL {text!r}"
        if _UNPRINTABLE.search(text):
            raise InvalidRequest(f"{problem}: contains a blank or control character")
        if _ESCAPE.search(text):
            raise InvalidRequest(f"{problem}: a % is not followed by two hexadecimal digits")
        scheme, separator, _ = text.partition("://")
        if not separator or not _SCHEME.fullmatch(scheme):
            raise InvalidRequest(f"{problem}: does not start with <mechanism>://", hint=f"as in {_FORM}")
        try:
            parts = urlsplit(text)
            _ = parts.port
        except ValueError as error:
            raise InvalidRequest(problem, detail=str(error)) from error
        user, at, host = parts.netloc.rpartition("@")
        host = unquote(host.partition(":")[0] if not host.startswith("[") else host[1:].partition("]")[0])
        name = unquote(user.partition(":")[0])
        if not host:
            raise InvalidRequest(f"{problem}: names no network service", hint=f"as in {_FORM}")
        labels: dict[str, str] = {}
        for key, value in parse_qsl(parts.query, keep_blank_values=True):
            labels[key] = f"{labels[key]},{value}" if key in labels else value
        last = parts.path.rpartition("/")[2]
        try:
            return cls(
                mechanism=scheme,
                network_service=f"{name}@{host}" if at and name else host,
                interface=unquote(last) if "/" in parts.path else None,
                labels=labels,
            )
        except InvalidRequest as error:
            raise InvalidRequest(problem, detail=error.message, hint=error.hint) from error

    def __str__(self) -> str:
        name, at, domain = self.network_service.partition("@")
        text = f"{self.mechanism.lower()}://{quote(name, safe='')}{at}{quote(domain, safe='')}"
        if self.interface is not None:
            text += "/" + quote(self.interface, safe="")
        if self.labels:
            text += "?" + urlencode(dict(self.labels))
        return text

    def preference(self) -> Mechanism:
        """Returns the mechanism preference that the URL stands for; its class is always LOCAL."""
        mechanism = Mechanism(cls=constants.LOCAL, type=self.mechanism)
        if self.interface is not None:
            mechanism.parameters["name"] = self.interface
        return mechanism

    def request(self, connection_id: str) -> NetworkServiceRequest:
        """Returns the first Request for it: no path, payload or context."""
        return NetworkServiceRequest(
            connection=Connection(id=connection_id, network_service=self.network_service, labels=dict(self.labels)),
            mechanism_preferences=[self.preference()],
        )
