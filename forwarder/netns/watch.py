"""When a network namespace is nobody's any more.

The kernel reports no end of a namespace, and what we hold of one, a socket or a descriptor, would
put that end off. So what is watched is its *keeper*: a process in it (pidfd_open(2)) or a name
of it (inotify(7)). When the keeper goes, another is looked for; when there is none, the namespace
is gone. A namespace costs one descriptor, none when it has a name, and no time while nothing happens.

A process that moves to another namespace is not noticed, nor is a name that is covered by a mount.
"""

import asyncio
import logging
import os
import select
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from forwarder.errors import NetlinkError
from forwarder.netns.directory_watch import DirectoryWatch
from forwarder.netns.namespace import NAMED_DIRECTORY, named
from forwarder.netns.thread import run_in

log = logging.getLogger(__name__)

Identity = tuple[int, int]
"""(st_dev, st_ino) of a namespace."""

_GATHER_S: Final = 0.02
"""How long a search waits for others, to look through /proc once for all of them."""


@dataclass(slots=True, eq=False)
class _Keeper:
    """What keeps a namespace alive; `pidfd` is -1 for a name."""

    path: Path
    pidfd: int = -1

    def close(self) -> None:
        fd, self.pidfd = self.pidfd, -1
        if fd >= 0:
            os.close(fd)


@dataclass(slots=True, eq=False)
class _Watched:
    """One namespace."""

    identity: Identity
    paths: set[Path] = field(default_factory=set)
    """Where its users found it, beside the usual places."""
    listeners: dict[object, Callable[[], object]] = field(default_factory=dict)
    keeper: _Keeper | None = None
    was_kept: bool = False


class NetnsWatch:
    """Tells who asked about a namespace when nobody keeps it any more."""

    def __init__(self) -> None:
        """Opens nothing before the first namespace."""
        self._watched: dict[Identity, _Watched] = {}
        self._by_name: dict[Path, _Watched] = {}
        self._names = DirectoryWatch(self._name_left)
        self._search: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Returns how many namespaces are watched."""
        return len(self._watched)

    def add(self, identity: Identity, gone: Callable[[], object], path: str = "") -> Callable[[], None]:
        """Calls `gone` once, when nobody keeps the namespace any more; returns how to stop that.

        `path` is a file that leads to the namespace, to be looked at beside /proc and /run/netns.
        A namespace that no process and no name can be found for at first is not watched.
        """
        watched = self._watched.setdefault(identity, _Watched(identity))
        if path:
            watched.paths.add(Path(path))
        token = object()
        watched.listeners[token] = gone
        if watched.keeper is None:
            self._look()

        def remove() -> None:
            watched.listeners.pop(token, None)
            if not watched.listeners and self._watched.get(identity) is watched:
                self._let_go(watched)
                del self._watched[identity]

        return remove

    async def aclose(self) -> None:
        """Watches nothing any more, and tells nobody."""
        search, self._search = self._search, None
        if search is not None:
            search.cancel()
            await asyncio.wait([search])
        for watched in self._watched.values():
            self._let_go(watched)
        self._watched.clear()
        self._names.close()

    def _look(self) -> None:
        """Sees to it that namespaces without keeper are searched for, now or after the present search."""
        if self._search is None or self._search.done():
            self._search = asyncio.create_task(self._search_all(), name="search for keepers of namespaces")

    async def _search_all(self) -> None:
        tried: set[_Watched] = set()
        while True:
            await asyncio.sleep(_GATHER_S)
            unkept = [each for each in self._watched.values() if each.keeper is None and each not in tried]
            if not unkept:
                return
            wanted = {each.identity: tuple(each.paths) for each in unkept}
            found = await run_in(None, partial(_find_keepers, wanted), discard=_close_all)
            for each in unkept:
                keeper = found.pop(each.identity, None)
                if self._watched.get(each.identity) is not each:
                    if keeper is not None:
                        keeper.close()
                elif keeper is not None:
                    self._keep(each, keeper)
                elif each.was_kept:
                    self._gone(each)
                else:
                    tried.add(each)
                    log.debug("no process and no name keeps %s: its end will not be noticed", _label(each))

    def _keep(self, watched: _Watched, keeper: _Keeper) -> None:
        watched.was_kept = True
        watched.keeper = keeper
        if keeper.pidfd >= 0:
            asyncio.get_running_loop().add_reader(keeper.pidfd, self._keeper_left, watched)
            return
        self._by_name[keeper.path] = watched
        try:
            self._names.add(keeper.path.parent)
        except NetlinkError as error:
            log.warning("the end of %s will not be noticed: %s", _label(watched), error)
        if _identity(keeper.path) != watched.identity:  # went before it was watched
            self._keeper_left(watched)

    def _name_left(self, path: Path | None) -> None:
        for name in list(self._by_name) if path is None else [path]:
            watched = self._by_name.get(name)
            if watched is not None and _identity(name) != watched.identity:
                self._keeper_left(watched)

    def _keeper_left(self, watched: _Watched) -> None:
        self._let_go(watched)
        self._look()

    def _let_go(self, watched: _Watched) -> None:
        keeper, watched.keeper = watched.keeper, None
        if keeper is None:
            return
        if keeper.pidfd >= 0:
            asyncio.get_running_loop().remove_reader(keeper.pidfd)
            keeper.close()
        else:
            del self._by_name[keeper.path]

    def _gone(self, watched: _Watched) -> None:
        del self._watched[watched.identity]
        listeners, watched.listeners = watched.listeners, {}
        for gone in listeners.values():
            gone()


def _find_keepers(wanted: dict[Identity, tuple[Path, ...]]) -> dict[Identity, _Keeper]:
    """Finds a keeper for each namespace that has one: a name rather than a process, an old one rather than a new.

    Looks through /run/netns and /proc once, and at the paths given; not for the event loop's thread.
    """
    found: dict[Identity, _Keeper] = {}
    missing = set(wanted)
    names = [path for paths in wanted.values() for path in paths if path.parts[1:2] != ("proc",)]
    for path in [*names, *(NAMED_DIRECTORY / name for name in named())]:
        identity = _identity(path)
        if identity in missing:
            found[identity] = _Keeper(path)
            missing.discard(identity)
    processes = [
        (Path(f"/proc/{pid}/ns/net"), pid) for pid in sorted(int(e) for e in os.listdir("/proc") if e.isdigit())
    ]
    given = [path for paths in wanted.values() for path in paths if path.parts[1:2] == ("proc",)]
    processes += [(path, int(path.parts[2])) for path in given if path.parts[2].isdigit()]
    for path, pid in processes:
        if not missing:
            break
        identity = _identity(path)
        if identity in missing and (keeper := _process(path, pid, identity)) is not None:
            found[identity] = keeper
            missing.discard(identity)
    return found


def _process(path: Path, pid: int, identity: Identity) -> _Keeper | None:
    """Holds on to a process, if it is there and in the namespace still."""
    try:
        keeper = _Keeper(path, os.pidfd_open(pid))
    except OSError:
        return None
    ended = select.poll()
    ended.register(keeper.pidfd, select.POLLIN)
    if ended.poll(0) or _identity(path) != identity:
        keeper.close()
        return None
    return keeper


def _identity(path: Path) -> Identity | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _close_all(keepers: dict[Identity, _Keeper]) -> None:
    for keeper in keepers.values():
        keeper.close()


def _label(watched: _Watched) -> str:
    return f"network namespace inode://{watched.identity[0]}/{watched.identity[1]}"
