"""Files that a peer sent: there for who asks, gone for who does not, never leaked."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from forwarder.errors import RemoteProtocolError
from forwarder.rpc import descriptor_table
from forwarder.rpc.descriptor_table import KEPT_S, DescriptorTable, Inode
from forwarder.rpc.files import KeptFiles


def opened(path: Path) -> tuple[Inode, int]:
    path.touch()
    found = path.stat()
    return (found.st_dev, found.st_ino), os.open(path, os.O_PATH | os.O_CLOEXEC)


@pytest.fixture(autouse=True)
def none_leaked() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.fixture
def table() -> Iterator[DescriptorTable]:
    made = DescriptorTable()
    yield made
    made.close()


def test_a_file_is_found_by_its_numbers_as_often_as_it_is_asked_for(table: DescriptorTable, tmp_path: Path) -> None:
    inode, descriptor = opened(tmp_path / "a")
    table.add([descriptor], 0.0)
    for _ in range(2):
        found = table.get(inode)
        assert found is not None
        assert os.path.sameopenfile(found, descriptor)
        os.close(found)
    assert table.get((1, 2)) is None


def test_the_same_file_twice_is_held_once_and_from_the_later_time_on(table: DescriptorTable, tmp_path: Path) -> None:
    inode, first = opened(tmp_path / "a")
    table.add([first], 0.0)
    table.add([opened(tmp_path / "a")[1]], 10.0)
    assert len(table) == 1
    assert table.expire(KEPT_S) == 10.0 + KEPT_S
    assert table.expire(10.0 + KEPT_S) is None
    assert table.get(inode) is None


def test_what_nobody_asks_for_is_given_up_in_order_of_arrival(table: DescriptorTable, tmp_path: Path) -> None:
    old, new = opened(tmp_path / "a"), opened(tmp_path / "b")
    table.add([old[1]], 0.0)
    table.add([new[1]], 1.0)
    assert table.expire(KEPT_S) == 1.0 + KEPT_S
    assert table.get(old[0]) is None
    assert len(table) == 1


def test_too_many_are_refused_and_still_the_table_s(
    table: DescriptorTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptor_table, "MOST", 3)
    with pytest.raises(RemoteProtocolError, match="more than 3"):
        table.add([opened(tmp_path / str(n))[1] for n in range(5)], 0.0)


async def test_who_waits_gets_the_file_when_it_comes(table: DescriptorTable, tmp_path: Path) -> None:
    inode, descriptor = opened(tmp_path / "a")
    waiting = asyncio.ensure_future(table.wait(inode, 1000))
    await asyncio.sleep(0)
    table.add([opened(tmp_path / "another")[1]], 0.0)
    await asyncio.sleep(0)
    assert not waiting.done()
    table.add([descriptor], 0.0)
    found = await waiting
    assert found is not None
    os.close(found)


async def test_who_waits_gets_none_when_time_or_connection_end(table: DescriptorTable) -> None:
    assert await table.wait((1, 2), 0) is None
    waiting = asyncio.ensure_future(table.wait((1, 2), 1000))
    await asyncio.sleep(0)
    table.close()
    assert await waiting is None


def test_a_kept_file_has_one_name_until_the_last_user_leaves(tmp_path: Path) -> None:
    files = KeptFiles()
    inode, first = opened(tmp_path / "a")
    with files.using("nsc-0"):
        path = files.keep("nsc-0", inode, first)
        with files.using("nsc-0"):
            assert files.keep("nsc-0", inode, opened(tmp_path / "a")[1]) == path
            assert files.path("nsc-0", inode) == path
            assert files.path("nsc-1", inode) is None
        assert os.path.samefile(path, tmp_path / "a")
        assert len(files) == 1
    assert len(files) == 0
    assert files.path("nsc-0", inode) is None
