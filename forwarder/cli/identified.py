"""Who a program is in the mesh: an identity from the Workload API, or none where --insecure was said."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from forwarder.api.x509 import Identity
from forwarder.clock import Clock
from forwarder.errors import ConfigError
from forwarder.mesh.endpoint import unsigned_tokens
from forwarder.mesh.identity import identity
from forwarder.security import Policies, SvidTokens, TokenSource

_log = logging.getLogger("vwire")


def need_identity(program: str, socket: str, *, insecure: bool) -> None:
    """Raises ConfigError if there is nowhere to get an identity from, and nobody has said that none is needed."""
    if not insecure and not socket:
        raise ConfigError(
            f"vwire {program} has no identity: SPIFFE_ENDPOINT_SOCKET is not set",
            hint="it names the Workload API, of SPIRE or of `vwire authority`; or say --insecure to use plain text, "
            "where everyone who can reach the socket is trusted",
        )


@asynccontextmanager
async def identified(socket: str, *, insecure: bool) -> AsyncIterator[Identity | None]:
    """Yields who we are as soon as the Workload API at `socket` says so; None if we are to be nobody."""
    if insecure:
        yield None
        return
    async with identity(socket) as found:
        _log.info("SVID: %s", found.svid.identity)
        yield found


def tokens_of(found: Identity | None, name: str, clock: Clock, lifetime_s: float) -> TokenSource:
    """Returns what vouches for the program: signed by its identity, if it has one."""
    if found is None:
        return unsigned_tokens(name, clock, lifetime_s)
    return SvidTokens(found, lifetime_s=lifetime_s, now=clock.now)


def policies_of(found: Identity | None, policies: Policies) -> Policies | None:
    """Returns what to check: nothing where nobody can prove anything."""
    return None if found is None else policies
