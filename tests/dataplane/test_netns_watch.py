"""A namespace is gone when no process is in it and no name leads to it, whatever we hold of it ourselves."""

import asyncio
import os
import secrets
import socket
from contextlib import ExitStack, asynccontextmanager, contextmanager

import pytest

from forwarder.netns import Netns, NetnsWatch, call_in, remove_name
from forwarder.netns.watch import _find_keepers
from tests.support.domain import until
from tests.support.netns import Netns as Shell
from tests.support.netns import network_namespace


@asynccontextmanager
async def watching():
    watch = NetnsWatch()
    try:
        yield watch
    finally:
        await watch.aclose()


@contextmanager
def process(shell):
    """A process in a namespace, once it is there."""
    with shell.process("sh", "-c", "echo here; exec sleep infinity") as running:
        running.stdout.readline()
        yield running


async def kept(watch):
    """Waits until a keeper has been found for every namespace."""
    await until(lambda: all(each.keeper is not None for each in watch._watched.values()))


async def searched(watch):
    """Waits until a search has found what there is to be found."""
    async with asyncio.timeout(5):
        await asyncio.wait([watch._search])


def identity(shell):
    found = os.fstat(shell.fd)
    return found.st_dev, found.st_ino


async def test_a_namespace_is_gone_when_its_last_process_is_although_we_have_a_socket_in_it():
    with network_namespace() as shell, process(shell) as first, process(shell) as second:
        async with watching() as watch:
            gone = asyncio.Event()
            watch.add(identity(shell), gone.set)
            with shell.socket(socket.AF_INET, socket.SOCK_DGRAM):
                await kept(watch)
                first.kill()
                first.wait()
                await kept(watch)
                assert not gone.is_set()
                second.kill()
                async with asyncio.timeout(5):
                    await gone.wait()
            assert len(watch) == 0


async def test_a_namespace_with_a_name_is_gone_when_the_name_is():
    name = f"vwire-test-{secrets.token_hex(4)}"
    with Netns.create_named(name) as netns:
        async with watching() as watch:
            gone = asyncio.Event()
            watch.add(netns.identity, gone.set)
            await kept(watch)
            with process(Shell(netns.fileno())) as running:
                remove_name(name)
                await kept(watch)
                assert not gone.is_set()  # there is a process still
                running.kill()
                async with asyncio.timeout(5):
                    await gone.wait()


async def test_a_path_beside_the_usual_places_keeps_a_namespace_too():
    with network_namespace() as shell:
        async with watching() as watch:
            watch.add(identity(shell), lambda: None, shell.path)
            await kept(watch)


async def test_a_namespace_that_nobody_kept_from_the_start_is_not_told_of():
    with network_namespace() as shell:
        async with watching() as watch:
            told = []
            watch.add(identity(shell), lambda: told.append("gone"))
            await searched(watch)
            with process(shell):
                watch.add(identity(shell), lambda: told.append("gone too"))
                await kept(watch)
                assert told == []
            await until(lambda: bool(told))
            assert told == ["gone", "gone too"]


async def test_who_does_not_ask_any_more_is_not_told_and_nothing_is_held():
    with network_namespace() as shell, process(shell) as running:
        async with watching() as watch:
            told = []
            stop_first = watch.add(identity(shell), lambda: told.append(1))
            stop_second = watch.add(identity(shell), lambda: told.append(2))
            await kept(watch)
            stop_first()
            stop_first()
            assert len(watch) == 1
            running.kill()
            await until(lambda: bool(told))
            assert told == [2]
            stop_second()


async def test_many_namespaces_are_searched_for_together_and_cost_a_descriptor_each_at_most(monkeypatch):
    listings = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path=".": listings.append(path) or listdir(path))
    with Netns.create() as parent:
        shell = Shell(parent.fileno())
        unshare = ["unshare", "--net", "sh", "-c", "echo here; exec sleep infinity"]
        with ExitStack() as stack:
            running = [stack.enter_context(shell.process(*unshare)) for _ in range(20)]
            for each in running:
                each.stdout.readline()
            async with watching() as watch:
                before = len(listdir("/proc/self/fd"))
                left = set()
                for number, each in enumerate(running):
                    found = os.stat(f"/proc/{each.pid}/ns/net")
                    watch.add((found.st_dev, found.st_ino), lambda number=number: left.add(number))
                await kept(watch)
                assert listings.count("/proc") == 1
                assert len(listdir("/proc/self/fd")) - before <= len(running)
                for each in running:
                    each.kill()
                await until(lambda: len(left) == len(running))


@pytest.mark.parametrize("keeper", ["process", "name"])
async def test_closing_while_it_searches_leaves_nothing(keeper):
    name = f"vwire-test-{secrets.token_hex(4)}"
    with Netns.create_named(name) as netns:
        try:
            with process(Shell(netns.fileno())):
                if keeper == "process":
                    remove_name(name)
                for wait_s in (0, 0.021, 0.03):
                    async with watching() as watch:
                        watch.add(netns.identity, lambda: None)
                        await asyncio.sleep(wait_s)
        finally:
            remove_name(name)


def test_a_thread_of_ours_inside_does_not_keep_a_namespace():
    with Netns.create() as netns:
        assert call_in(netns, lambda: _find_keepers({netns.identity: ()})) == {}
