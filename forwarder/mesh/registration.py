"""Keeps an endpoint known to a registry: registers, refreshes, notices that it was forgotten, and leaves.

```
 ┌─► lend a channel ─► Register ─► watch on the own name ─┬─ two thirds of the lifetime are over ─┐
 │                        │                               │                                       │
 ├── pause ◄──────────────┴─ failed ◄──── it broke, or ───┘                                       │
 │                                        we were removed                                         │
 └────────────────────────────────────────────────────────────────────────────────────────────────┘
```

A registry that restarts has lost its registrations and breaks the watch. One that vanishes
without a word is noticed by the next refresh.

Source: Network Service Mesh sdk, `pkg/registry/common/{begin,heal,refresh,retry}`.
"""

import asyncio
import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from forwarder.api.registry_pb2 import NetworkService, NetworkServiceEndpoint
from forwarder.clock import Clock
from forwarder.errors import ForwarderError, NextHopError, NotAuthorized, PolicyError, RemoteProtocolError
from forwarder.mesh import registry_path
from forwarder.rpc import Channel, Channels, NetworkServiceEndpointRegistry, NetworkServiceRegistry, Registered
from forwarder.security import Policies, RegistryInput, owner_of

NEW_PATH: Final = '{"Index":0,"PathSegments":null}'
"""The registry API's path of somebody who has not registered yet."""
CALL_TIMEOUT_S: Final = 15.0
"""Longest wait for one Register, as NSM's programs have it."""
LEAVE_TIMEOUT_S: Final = 2.0
"""Longest wait for Unregister: we are ending, and an end that is not told of is noticed by its expiry."""
FIRST_PAUSE_S: Final = 0.2
LAST_PAUSE_S: Final = 3.2
"""Pauses between attempts: the first, then twice as long each time, up to the last."""
LIFETIME_S: Final = 60.0
"""How long a registration without an expiry is taken to last: a registry's default."""

_log = logging.getLogger(__name__)


class Registration:
    """An async context manager: while it lasts, the endpoint is registered as far as the registry lets us."""

    def __init__(
        self,
        channels: Channels,
        registry: str,
        endpoint: NetworkServiceEndpoint,
        clock: Clock,
        *,
        policies: Policies | None = None,
        services: Sequence[NetworkService] = (),
    ) -> None:
        """`registry` is the URL to call; `endpoint` is sent as it is, with every Register.

        `services` are registered before it, whenever the registry does not have us; they are nobody's
        alone, and stay when we leave.
        `policies` judge every answer; an answer that they deny is taken back.
        """
        self._channels = channels
        self._url = registry
        self._endpoint = endpoint
        self._clock = clock
        self._policies = policies
        self._services = services
        self._path_ids: dict[str, tuple[str, ...]] = {}
        """By name, under which path it was registered."""
        self._path = NEW_PATH
        self._task: asyncio.Task[None] | None = None
        self._told_lost = False
        self.registered = asyncio.Event()
        """Set while the registry has us, as far as we know."""

    async def __aenter__(self) -> Self:
        """Begins to register; waits for nothing."""
        self._task = asyncio.create_task(self._keep(), name=f"registration of {self._endpoint.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends that, and takes the endpoint out of the registry if it is there."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self.registered.is_set():
            self.registered.clear()
            await self._leave()

    async def settled(self, within_s: float) -> bool:
        """Waits until we are registered, at most `within_s`; says whether we are."""
        try:
            async with asyncio.timeout(within_s):
                await self.registered.wait()
        except TimeoutError:
            return False
        return True

    async def _keep(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            try:
                # Lent anew each time: a channel is as good as the certificates that it began with.
                async with self._channels.lend(self._url) as channel:
                    await self._stay(NetworkServiceEndpointRegistry(channel), channel)
                pause = FIRST_PAUSE_S
                continue
            except (ForwarderError, TimeoutError) as error:
                if self.registered.is_set():
                    pause = FIRST_PAUSE_S
                self._lost(str(error))
            except Exception:
                _log.exception("registering failed in a way that it should not")
            await self._clock.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE_S)

    async def _stay(self, registry: NetworkServiceEndpointRegistry, channel: Channel) -> None:
        """Registers, and returns when it is time to do so again.

        Raises NextHopError as soon as the registry has forgotten us.
        """
        delay = await self._register(registry, channel)
        forgotten = asyncio.create_task(self._forgotten(registry), name="watch on our own name")
        due = asyncio.create_task(self._clock.sleep(delay), name="refresh of the registration")
        try:
            await asyncio.wait([forgotten, due], return_when=asyncio.FIRST_COMPLETED)
            if forgotten.done():
                raise NextHopError(f"registry {self._url}: {forgotten.result()}", status="UNAVAILABLE")
        finally:
            for task in (forgotten, due):
                task.cancel()
            await asyncio.wait([forgotten, due])

    async def _register(self, registry: NetworkServiceEndpointRegistry, channel: Channel) -> float:
        """Registers, and returns after how many seconds to do so again."""
        if not self.registered.is_set():
            for service in self._services:
                await NetworkServiceRegistry(channel).register(service, path=NEW_PATH, timeout_s=CALL_TIMEOUT_S)
        answer = await registry.register(self._endpoint, path=self._path, timeout_s=CALL_TIMEOUT_S)
        try:
            await self._check(answer, channel)
        except (NotAuthorized, PolicyError, RemoteProtocolError):
            await registry.unregister(answer.message, path=answer.path, timeout_s=CALL_TIMEOUT_S)
            raise
        self._path = answer.path or self._path
        if not self.registered.is_set():
            self._told_lost = False
            self.registered.set()
            services = ", ".join(self._endpoint.network_service_names)
            _log.info("registered as %s of %s with %s", answer.message.name, services, self._url)
        if not answer.message.HasField("expiration_time"):
            return LIFETIME_S * 2 / 3
        left = answer.message.expiration_time.ToNanoseconds() / 1e9 - self._clock.now()
        return max(left * 2 / 3, FIRST_PAUSE_S)

    async def _check(self, answer: Registered[NetworkServiceEndpoint], channel: Channel) -> None:
        """Returns if policies allow the answer; raises what says why not."""
        if not self._policies:
            return
        path = registry_path.parse(answer.path or NEW_PATH)
        name = answer.message.name
        await self._policies.check(
            RegistryInput(
                name=name,
                owner=owner_of(path.tokens[0]) if path.tokens else "",
                known=self._path_ids,
                tokens=path.tokens,
                index=path.index,
                peer=channel.tls_peer,
            )
        )
        self._path_ids[name] = tuple(answer.message.path_ids)

    async def _forgotten(self, registry: NetworkServiceEndpointRegistry) -> str:
        """Watches our own name; returns why the registry no longer has us."""
        pattern = NetworkServiceEndpoint(name=self._endpoint.name)
        try:
            async with registry.find(pattern, watch=True) as answers:
                async for answer in answers:
                    if answer.deleted and answer.network_service_endpoint.name == self._endpoint.name:
                        return "it has removed us"
        except ForwarderError as error:
            return str(error)
        return "it has ended the watch on our name"

    def _lost(self, why: str) -> None:
        """Tells that we are not registered, once until we are again."""
        self.registered.clear()
        self._path = NEW_PATH
        _log.log(logging.DEBUG if self._told_lost else logging.WARNING, "not registered, trying again: %s", why)
        self._told_lost = True

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(LEAVE_TIMEOUT_S), self._channels.lend(self._url) as channel:
                await NetworkServiceEndpointRegistry(channel).unregister(
                    self._endpoint, path=self._path, timeout_s=LEAVE_TIMEOUT_S
                )
        except (ForwarderError, TimeoutError) as error:
            _log.warning("not unregistered from %s: %s", self._url, str(error) or "no answer")
        else:
            _log.info("unregistered from %s", self._url)
