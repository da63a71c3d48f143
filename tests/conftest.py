"""What every test gets: a process of its own in the network, its folder's privilege, the leak check."""

import asyncio
import gc
import inspect
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.leaks import leaks, snapshot
from tests.support.netns import Netns, isolate_process, network_namespace
from tests.support.peers import REQUIRED

NEEDS_ROOT = ("dataplane", "mesh", "interop")
"""Folders whose tests make network namespaces and interfaces."""

_ISOLATED = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Gives the run a network namespace of its own, before any thread exists."""
    if os.geteuid() != 0:
        config.stash[_ISOLATED] = "needs root, to make network namespaces and interfaces"
        return
    try:
        isolate_process()
    except OSError as error:
        config.stash[_ISOLATED] = f"needs CAP_SYS_ADMIN and CAP_NET_ADMIN: {error}"
    if os.environ.get("VWIRE_SANITIZE") == "thread":
        # The sanitizer starts a thread of its own with the first of ours, and keeps it.
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()


def pytest_report_header(config: pytest.Config) -> str:
    """Says where the tests run."""
    return f"network namespace: {config.stash.get(_ISOLATED, 'own')}"


def _folder(path: Path, config: pytest.Config) -> str:
    parts = path.relative_to(config.rootpath).parts
    return parts[1] if len(parts) > 1 and parts[0] == "tests" else ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips what lacks its privilege, and puts the task check around every coroutine test."""
    reason = config.stash.get(_ISOLATED, None)
    for item in items:
        if reason and not REQUIRED and _folder(item.path, config) in NEEDS_ROOT:
            item.add_marker(pytest.mark.skip(reason=reason))
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.function):
            names = item.fixturenames
            names.insert(names.index("nothing_left") + 1 if "nothing_left" in names else 0, "no_task_left")


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves something: descriptors, threads, links, sockets, allocations."""
    if _folder(request.path, request.config) not in NEEDS_ROOT:
        yield
        return
    before = snapshot()
    yield
    gc.collect()
    if left := leaks(before):
        pytest.fail("the test left something behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    """Fails a coroutine test that leaves a task running once its fixtures are done."""
    before = asyncio.all_tasks()
    yield
    left: set[asyncio.Task[object]] = set()
    for _ in range(20):  # what was cancelled needs a turn of the loop or two to end
        left = {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()}
        if not left:
            return
        await asyncio.sleep(0.005)
    pytest.fail("tasks left running:\n  " + "\n  ".join(repr(task) for task in left), pytrace=False)


@pytest.fixture
def netns() -> Iterator[Netns]:
    """A network namespace for one test."""
    with network_namespace() as made:
        yield made


@pytest.fixture
def two_netns() -> Iterator[tuple[Netns, Netns]]:
    """Two network namespaces with nothing between them."""
    with network_namespace() as a, network_namespace() as b:
        yield a, b
