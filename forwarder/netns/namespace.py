"""Network namespaces, held by descriptor: the process's own, another's, named and new ones.

Source: unshare(2), ioctl_ns(2), network_namespaces(7).
"""

import ctypes
import errno
import fcntl
import os
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from forwarder.errors import NetlinkError
from forwarder.netns.thread import CLONE_NEWNET, call_in, enter

NAMED_DIRECTORY: Final = Path("/run/netns")
"""Where `ip netns` keeps namespaces that have a name."""

_NS_GET_NSTYPE: Final = 0xB703
_MS_BIND: Final = 0x1000
_MS_REC: Final = 0x4000
_MS_SHARED: Final = 0x100000
_MNT_DETACH: Final = 0x2

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise NetlinkError(what, errno=number, hint=_privilege_hint(number))


def _privilege_hint(number: int) -> str:
    return "this needs CAP_SYS_ADMIN" if number in (errno.EPERM, errno.EACCES) else ""


class Netns:
    """A network namespace, held open by its descriptor.

    The namespace lives at least as long as this object is open, even when the process that
    made it is gone. Closing twice is safe; an object collected while open gives a ResourceWarning.
    """

    __slots__ = ("__weakref__", "_fd", "identity", "label")

    def __init__(self, fd: int, label: str) -> None:
        """Takes over `fd`, which must refer to a network namespace; `label` is for messages.

        Raises NetlinkError, and closes `fd`, when it is something else.
        """
        self._fd = fd
        self.label = label
        try:
            status = os.fstat(fd)
            kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
        except OSError as error:
            self.close()
            raise NetlinkError(f"cannot use {label} as a network namespace", errno=error.errno or 0) from error
        if kind != CLONE_NEWNET:
            self.close()
            raise NetlinkError(
                f"cannot use {label} as a network namespace",
                errno=errno.EINVAL,
                detail="it is a namespace of another kind",
            )
        self.identity: tuple[int, int] = (status.st_dev, status.st_ino)
        """(st_dev, st_ino) of the namespace: equal for two holders of the same one."""

    @classmethod
    def current(cls) -> Self:
        """Opens the namespace of the calling thread."""
        return cls.at_path("/proc/thread-self/ns/net")

    @classmethod
    def of_pid(cls, pid: int) -> Self:
        """Opens the namespace that process `pid` is in."""
        return cls.at_path(f"/proc/{pid}/ns/net")

    @classmethod
    def named(cls, name: str) -> Self:
        """Opens what `ip netns` calls `name`."""
        _check_name(name)
        return cls.at_path(str(NAMED_DIRECTORY / name))

    @classmethod
    def at_path(cls, path: str) -> Self:
        """Opens the namespace that a file stands for.

        The file is looked at before it is opened, so that a path which leads to a device or
        a pipe is refused without touching it.
        """
        what = f"cannot open network namespace {path}"
        try:
            probe = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            number = error.errno or 0 if isinstance(error, OSError) else errno.EINVAL
            raise NetlinkError(what, errno=number, hint=_privilege_hint(number)) from error
        try:
            if os.fstat(probe).st_dev != _nsfs_device():
                raise NetlinkError(what, errno=errno.EINVAL, detail="the file is not a namespace")
            fd = os.open(f"/proc/self/fd/{probe}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if isinstance(error, NetlinkError):
                raise
            raise NetlinkError(what, errno=error.errno or 0) from error
        finally:
            os.close(probe)
        return cls(fd, path)

    @classmethod
    def of_inode(cls, device: int, inode: int) -> Self:
        """Finds the namespace with this (st_dev, st_ino) among processes and names.

        Looks at every process's namespace and at /run/netns. A namespace held only by a
        descriptor or a socket of some process is not found: errno is ENOENT.
        """
        wanted = (device, inode)
        label = f"inode://{device}/{inode}"
        for path in _candidate_paths():
            try:
                status = os.stat(path)
            except OSError:
                continue  # the process ended, or is not ours to look at
            if (status.st_dev, status.st_ino) != wanted:
                continue
            try:
                found = cls.at_path(path)
            except NetlinkError:
                continue
            if found.identity == wanted:
                found.label = f"{label} ({path})"
                return found
            found.close()
        raise NetlinkError(
            f"cannot open network namespace {label}",
            errno=errno.ENOENT,
            detail="no process and no name in /run/netns has it",
        )

    @classmethod
    def all(cls) -> Iterator[Self]:
        """Opens every namespace that a process is in or that has a name, each once, one after another.

        The caller closes each. What has ended meanwhile, or may not be looked at, is left out.
        """
        seen: set[tuple[int, int]] = set()
        for path in _candidate_paths():
            try:
                status = os.stat(path)
                if (status.st_dev, status.st_ino) in seen:
                    continue
                found = cls.at_path(path)
            except OSError:
                continue
            if found.identity in seen:
                found.close()
                continue
            seen.add(found.identity)
            yield found

    @classmethod
    def create(cls) -> "Netns":
        """Makes a new namespace that has no name: it is gone when this and its users are.

        Its loopback interface is down, as the kernel makes it.
        """

        def unshare() -> Netns:
            _check(_libc.unshare(CLONE_NEWNET), "cannot create a network namespace")
            return cls.current()

        made = call_in(None, unshare)
        made.label = f"unnamed network namespace {made.identity[1]}"
        return made

    @classmethod
    def create_named(cls, name: str) -> Self:
        """Makes a new namespace and gives it a name, so that `ip netns exec NAME` finds it.

        `remove_name` undoes the naming. Raises NetlinkError (EEXIST) when the name is taken.
        """
        _check_name(name)
        path = NAMED_DIRECTORY / name
        what = f"cannot name a network namespace {path}"
        _share_named_directory()
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC, 0o444))
        except OSError as error:
            raise NetlinkError(what, errno=error.errno or 0) from error

        def unshare_and_bind() -> None:
            _check(_libc.unshare(CLONE_NEWNET), "cannot create a network namespace")
            source = b"/proc/thread-self/ns/net"
            _check(_libc.mount(source, os.fsencode(path), b"none", _MS_BIND, None), what)

        try:
            call_in(None, unshare_and_bind)
        except NetlinkError:
            path.unlink(missing_ok=True)
            raise
        return cls.at_path(str(path))

    @property
    def closed(self) -> bool:
        """Whether the descriptor was given back."""
        return self._fd < 0

    def fileno(self) -> int:
        """Returns the descriptor, which this object keeps owning."""
        if self._fd < 0:
            raise NetlinkError(f"{self.label} was closed", errno=errno.EBADF)
        return self._fd

    def enter(self) -> None:
        """Moves the calling thread into the namespace: only for a thread made for this work."""
        enter(self)

    def close(self) -> None:
        """Gives the descriptor back; does nothing the second time."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Netns {self.label}{' closed' if self.closed else ''}>"

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=2, source=self)
            self.close()


def remove_name(name: str) -> None:
    """Takes a name made by `Netns.create_named` away; does nothing when there is none.

    The namespace itself goes when nothing else holds it.
    """
    _check_name(name)
    path = NAMED_DIRECTORY / name
    if not path.exists():
        return
    if _libc.umount2(os.fsencode(path), _MNT_DETACH) != 0 and ctypes.get_errno() != errno.EINVAL:
        # EINVAL: a plain file, left by whoever died between creating and mounting it
        _check(-1, f"cannot unmount {path}")
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise NetlinkError(f"cannot remove {path}", errno=error.errno or 0) from error


def named() -> list[str]:
    """Lists the names in /run/netns, sorted."""
    try:
        return sorted(os.listdir(NAMED_DIRECTORY))
    except FileNotFoundError:
        return []


def _check_name(name: str) -> None:
    if not name or name in (".", "..") or "/" in name or "\0" in name or len(name.encode()) > 255:
        raise NetlinkError(
            f"cannot use {name!r} as the name of a network namespace",
            errno=errno.EINVAL,
            detail="it must be a file name",
        )


@cache
def _nsfs_device() -> int:
    """Returns the device of all namespace files: the kernel has one such file system."""
    return os.stat("/proc/thread-self/ns/net").st_dev


def _candidate_paths() -> list[str]:
    processes = [f"/proc/{entry}/ns/net" for entry in os.listdir("/proc") if entry.isdigit()]
    return ["/proc/thread-self/ns/net", *processes, *(str(NAMED_DIRECTORY / name) for name in named())]


def _share_named_directory() -> None:
    """Makes /run/netns a shared mount, as iproute2 does, so that unmounting reaches every mount namespace."""
    try:
        NAMED_DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise NetlinkError(f"cannot create {NAMED_DIRECTORY}", errno=error.errno or 0) from error
    directory = os.fsencode(NAMED_DIRECTORY)
    if _libc.mount(b"", directory, b"none", _MS_SHARED | _MS_REC, None) == 0:
        return
    if ctypes.get_errno() == errno.EINVAL:  # not a mount point yet
        _check(
            _libc.mount(directory, directory, b"none", _MS_BIND | _MS_REC, None),
            f"cannot mount {NAMED_DIRECTORY}",
        )
    _check(_libc.mount(b"", directory, b"none", _MS_SHARED | _MS_REC, None), f"cannot share {NAMED_DIRECTORY}")
