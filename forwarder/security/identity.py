"""Our identity, as the Workload API tells it and for as long as it does.

A program waits at its start until it has an SVID, and follows every change from then on. While the
Workload API is away the last SVID stays in use.
"""

import asyncio
import datetime
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from forwarder.api.spiffe_id import SpiffeId
from forwarder.api.workload_pb2 import X509SVIDResponse
from forwarder.api.x509 import Identity, Svid, load
from forwarder.clock import Clock, SystemClock
from forwarder.errors import ConfigError, ForwarderError, InvalidRequest, NextHopError
from forwarder.security import certificates

_log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
"""Between two attempts; each is twice as long as the one before."""


class SvidStreams(Protocol):
    """A connection to a Workload API; `rpc.WorkloadApi` is one."""

    def svids(self) -> AbstractAsyncContextManager[AsyncIterator[X509SVIDResponse]]:
        """Opens the stream of our certificates and of whom to trust."""
        ...


Connect = Callable[[], AbstractAsyncContextManager[SvidStreams]]
"""Connects to the Workload API; raises NextHopError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """One answer of the Workload API."""

    svid: Svid
    bundles: Mapping[str, tuple[bytes, ...]]


class _Followed:
    """What was told last; an `Identity` from the first answer on."""

    def __init__(self, connect: Connect, clock: Clock) -> None:
        self._connect = connect
        self._clock = clock
        self._told: _Told | None = None
        self.ready = asyncio.Event()

    @property
    def svid(self) -> Svid:
        assert self._told is not None, "nobody has this object before there is an SVID"
        return self._told.svid

    @property
    def bundles(self) -> Mapping[str, tuple[bytes, ...]]:
        assert self._told is not None, "nobody has this object before there is an SVID"
        return self._told.bundles

    async def follow(self) -> None:
        """Listens for ever, and connects again when the connection is lost.

        Before the first SVID: raises ConfigError for one that cannot be used, and NextHopError if the
        Workload API calls our request invalid.
        """
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                async with self._connect() as api, api.svids() as answers:
                    async for answer in answers:
                        self._take(answer)
                        pause_s = FIRST_PAUSE_S
                reason = "the Workload API ended its answers"
            except NextHopError as error:
                if error.status == "INVALID_ARGUMENT" and not self.ready.is_set():
                    raise
                reason = str(error)
            what = "the last SVID stays in use" if self.ready.is_set() else "waiting for an SVID"
            _log.warning("%s: %s; next attempt in %g s", what, reason, pause_s)
            await self._clock.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _take(self, answer: X509SVIDResponse) -> None:
        try:
            told = read(answer)
        except ConfigError as error:
            if not self.ready.is_set():
                raise
            _log.error("the last SVID stays in use: %s", error)
            return
        except ForwarderError as error:
            _log.warning("the Workload API gave an answer that cannot be used: %s", error)
            return
        before, self._told = self._told, told
        self.ready.set()
        if before is None or before.svid != told.svid:
            ends = load(told.svid.certificates[0]).not_valid_after_utc
            _log.info("identity %s until %s", told.svid.identity, _text(ends))
        if before is None or before.bundles != told.bundles:
            counts = ", ".join(f"{name} ({len(roots)})" for name, roots in sorted(told.bundles.items()))
            _log.info("trust domains and how many authorities each has: %s", counts)


@asynccontextmanager
async def follow(connect: Connect, *, clock: Clock | None = None) -> AsyncIterator[Identity]:
    """Yields our identity once there is one, and keeps it as the Workload API tells it.

    Waits without end, saying so in the log. Raises ConfigError if the first SVID cannot sign
    tokens, and NextHopError if the Workload API calls our request invalid.
    """
    followed = _Followed(connect, clock or SystemClock())
    following = asyncio.create_task(followed.follow(), name="identity")
    ready = asyncio.create_task(followed.ready.wait(), name="first identity")
    try:
        await asyncio.wait([following, ready], return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            following.result()
        yield followed
    finally:
        for task in (following, ready):
            task.cancel()
        await asyncio.wait([following, ready])


def read(answer: X509SVIDResponse) -> _Told:
    """Reads the first SVID, which is the one to use, and every bundle.

    Raises InvalidRequest if something in it cannot be read, and ConfigError for a key that cannot
    sign tokens.
    """
    if not answer.svids:
        raise InvalidRequest("the Workload API's answer has no SVID")
    first = answer.svids[0]
    bundles = {trust_domain_of(name): _authorities(name, data) for name, data in answer.federated_bundles.items()}
    for each in answer.svids:
        bundles[SpiffeId.parse(each.spiffe_id).trust_domain] = _authorities(each.spiffe_id, each.bundle)
    return _Told(svid=certificates.svid(first.spiffe_id, first.x509_svid, first.x509_svid_key), bundles=bundles)


def trust_domain_of(name: str) -> str:
    """Returns the trust domain that a bundle's key names, `spiffe://example.org`.

    Raises InvalidRequest for anything else.
    """
    identity = SpiffeId.parse(name)
    if identity.path:
        raise InvalidRequest(f"{name} names a workload, not a trust domain")
    return identity.trust_domain


def _authorities(name: str, data: bytes) -> tuple[bytes, ...]:
    try:
        found = certificates.split(data)
        for certificate in found:
            load(certificate)
    except InvalidRequest as error:
        raise InvalidRequest(f"the bundle of {name} cannot be read", detail=str(error)) from error
    return found


def _text(moment: datetime.datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
