"""A forwarder is known to its manager for as long as both run, whatever happens to the manager."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from forwarder import config
from forwarder.api.registry_pb2 import NetworkService
from forwarder.cli.forwarder import endpoint_of
from forwarder.clock import SystemClock
from forwarder.mesh.registration import Registration
from forwarder.rpc import Channels
from forwarder.security import REGISTRY_CLIENT, Policies
from tests.support.domain import until
from tests.support.manager import Manager, managed

NAME = "forwarder"


@asynccontextmanager
async def registration(directory: Path, **options: object) -> AsyncIterator[Registration]:
    (directory / "fwd.sock").touch()
    endpoint = endpoint_of(config.ForwarderSettings(), f"unix://{directory}/fwd.sock")
    async with (
        Channels(timeout_s=0.3) as channels,
        Registration(channels, url(directory), endpoint, SystemClock(), **options) as made,  # type: ignore[arg-type]
    ):
        yield made


def url(directory: Path) -> str:
    return f"unix://{directory}/nsm.sock"


async def test_a_forwarder_registers_as_nsm_s_own_does_and_leaves_at_its_end(tmp_path: Path) -> None:
    async with managed(url(tmp_path), Manager()) as manager:
        async with registration(tmp_path) as made:
            assert await made.settled(5)
            (sent,) = manager.registered
            assert sent.name == NAME
            assert list(sent.network_service_names) == ["forwarder"]
            assert dict(sent.network_service_labels["forwarder"].labels) == {"p2p": "true"}
            assert sent.url.startswith("inode://")
            assert json.loads(manager.paths[0]) == {"Index": 0, "PathSegments": None}
        assert manager.unregistered == [NAME]
        assert manager.endpoints.items == {}


async def test_a_registration_is_refreshed_at_two_thirds_of_its_life_with_the_path_that_came_back(
    tmp_path: Path,
) -> None:
    async with managed(url(tmp_path), Manager(lifetime_s=0.6)) as manager, registration(tmp_path):
        await until(lambda: len(manager.registered) >= 3)
        assert not any(each.HasField("expiration_time") for each in manager.registered)
        assert json.loads(manager.paths[1])["Index"] == 0
        assert len(json.loads(manager.paths[1])["PathSegments"]) == 2


async def test_a_manager_that_restarts_has_the_forwarder_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with registration(tmp_path) as made:
        for _ in range(2):
            async with managed(url(tmp_path), Manager()) as manager:
                await until(lambda: NAME in manager.endpoints.items)
                assert await made.settled(5)
            await until(lambda: not made.registered.is_set())
            await asyncio.sleep(0.5)  # several attempts fail
    told = [record.message for record in caplog.records if record.name == "forwarder.mesh.registration"]
    assert [text.split(" ")[0] for text in told] == [
        "registered", "not", "registered", "not",
    ], "each change once, not each attempt"  # fmt: skip


async def test_a_manager_that_comes_late_is_found(tmp_path: Path) -> None:
    async with registration(tmp_path) as made:
        assert not await made.settled(0.4)
        async with managed(url(tmp_path), Manager()) as manager:
            assert await made.settled(5)
            assert NAME in manager.endpoints.items


async def test_a_removed_registration_is_made_again(tmp_path: Path) -> None:
    async with managed(url(tmp_path), Manager()) as manager, registration(tmp_path) as made:
        assert await made.settled(5)
        await until(lambda: manager.endpoints.watched == 1)
        manager.endpoints.remove(NAME)
        await until(lambda: len(manager.registered) == 2)
        assert NAME in manager.endpoints.items


async def test_an_answer_that_policies_refuse_is_taken_back(tmp_path: Path) -> None:
    policies = Policies.load(REGISTRY_CLIENT)
    async with managed(url(tmp_path), Manager()) as manager, registration(tmp_path, policies=policies) as made:
        await until(lambda: manager.unregistered != [])
        assert not made.registered.is_set()


async def test_services_are_registered_before_the_endpoint_and_again_with_a_manager_that_lost_them(
    tmp_path: Path,
) -> None:
    services = [NetworkService(name="web", payload="IP")]
    async with registration(tmp_path, services=services) as made:
        for _ in range(2):
            async with managed(url(tmp_path), Manager()) as manager:
                assert await made.settled(5)
                assert [each.payload for each in manager.services.items.values()] == ["IP"]
            await until(lambda: not made.registered.is_set())


async def test_without_a_manager_the_end_is_prompt(tmp_path: Path) -> None:
    async with asyncio.timeout(2), registration(tmp_path) as made:
        assert not await made.settled(0.05)
