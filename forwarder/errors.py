"""The exceptions of the package.

```
ForwarderError                    carries detail and hint
├── ConfigError                   (also ValueError)
├── RequestError                  the caller asked for something we refuse
│   ├── InvalidRequest
│   ├── NameTaken
│   ├── MechanismUnsupported
│   ├── NotAuthorized
│   ├── ConnectionNotFound
│   └── EndpointNotFound
├── PolicyError                   a policy could not be evaluated
├── NextHopError                  the next server on the path failed; carries its status
├── ProtocolError
│   ├── RemoteProtocolError       the peer broke the protocol
│   └── LocalProtocolError        we did: a bug
├── DataplaneError                (also OSError: errno kept)
└── NetlinkError                  (also OSError: errno kept, and what was asked of the kernel)
```

They know no gRPC: `rpc.status` maps them to status codes and back. A message says
what was being done, to what, and what came back.
"""

import os


class ForwarderError(Exception):
    """The base of all. `detail` is what came back; `hint` is what the reader can do."""

    def __init__(self, message: str, *, detail: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        text = self.message
        if self.detail:
            text += f": {self.detail}"
        if self.hint:
            text += f" ({self.hint})"
        return text


class ConfigError(ForwarderError, ValueError):
    """A setting, flag or file cannot be used."""


class RequestError(ForwarderError):
    """The caller asked for something we refuse."""


class InvalidRequest(RequestError):
    """The request is malformed or misses something."""


class NameTaken(RequestError):
    """The name that the request gives an interface is somebody else's."""


class MechanismUnsupported(RequestError):
    """None of the mechanisms asked for can be served."""


class NotAuthorized(RequestError):
    """A policy denied the call."""


class ConnectionNotFound(RequestError):
    """No connection has this id."""


class EndpointNotFound(RequestError):
    """No endpoint serves this network service."""


class PolicyError(ForwarderError):
    """A policy could not be evaluated: it neither allowed nor denied the call."""


class NextHopError(ForwarderError):
    """The next server on the path failed.

    `status` is the name of its gRPC status code, such as "UNAVAILABLE".
    """

    def __init__(self, message: str, *, status: str = "UNKNOWN", detail: str = "", hint: str = "") -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.status = status


class ProtocolError(ForwarderError):
    """A protocol was broken."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol."""


class LocalProtocolError(ProtocolError):
    """We broke the protocol: a bug."""


class _SystemError(ForwarderError, OSError):
    """A failure that carries an error number."""

    def __init__(self, message: str, *, errno: int = 0, detail: str = "", hint: str = "") -> None:
        ForwarderError.__init__(self, message, detail=detail or (os.strerror(errno) if errno else ""), hint=hint)
        self.errno = errno


class DataplaneError(_SystemError):
    """A port, wire or worker could not be made, or broke."""


class NetlinkError(_SystemError):
    """The kernel refused a change to links, addresses, routes, rules or neighbours."""
