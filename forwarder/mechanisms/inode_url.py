"""Which network namespace a mechanism's `inodeURL` means.

`inode://<st_dev>/<st_ino>` names the namespace by its identity, `file://<path>` by a file that
leads to it: /proc/<pid>/ns/net, /proc/<pid>/fd/<n>, or a name under /run/netns.
"""

import errno
import os
import re
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

from forwarder.errors import InvalidRequest, NetlinkError
from forwarder.netns import Netns

_OURSELVES: Final = frozenset({"self", "thread-self"})
_NUMBER: Final = re.compile(r"[0-9]{1,20}", re.ASCII)
_NOT_THERE: Final = frozenset({errno.ENOENT, errno.ESRCH, errno.ENOTDIR, errno.EINVAL, errno.ELOOP, errno.ENAMETOOLONG})

Identity = tuple[int, int]
"""(st_dev, st_ino)."""


@lru_cache(maxsize=4096)
def parse(inode_url: str) -> Identity | str:
    """Decodes the URL to an identity or a path, without looking at either.

    Raises InvalidRequest for another scheme, a relative path, and a path through /proc/self or
    /proc/thread-self: whoever wrote that meant himself, and here it would be us.
    """
    what = f"cannot use inodeURL {inode_url!r}"
    try:
        parts = urlsplit(inode_url)
    except ValueError as error:
        raise InvalidRequest(what, detail=str(error)) from error
    if parts.scheme == "inode":
        inode = parts.path.removeprefix("/")
        if not (_NUMBER.fullmatch(parts.netloc) and _NUMBER.fullmatch(inode)):
            raise InvalidRequest(what, detail="it is not inode://<device>/<inode> in decimal")
        return int(parts.netloc), int(inode)
    if parts.scheme != "file":
        raise InvalidRequest(what, detail="its scheme is neither inode nor file")
    path = os.path.normpath(unquote(parts.path))
    if parts.netloc or not path.startswith("/") or "\0" in path:
        raise InvalidRequest(what, detail="it is not file:///<absolute path>")
    steps = PurePosixPath(path).parts
    if "proc" in steps and _OURSELVES.intersection(steps):
        raise InvalidRequest(what, detail="it means the sender's own namespace", hint="send inode://<device>/<inode>")
    return path


def open_netns(inode_url: str) -> Netns:
    """Opens the namespace; may look through /proc, so not for the event loop's thread.

    Raises InvalidRequest when there is none, NetlinkError when it may not be opened.
    """
    target = parse(inode_url)
    try:
        return Netns.at_path(target) if isinstance(target, str) else Netns.of_inode(*target)
    except NetlinkError as error:
        if error.errno in _NOT_THERE:
            raise InvalidRequest(f"cannot use inodeURL {inode_url!r}", detail=str(error)) from error
        raise


def identify(inode_url: str) -> tuple[Identity, str] | None:
    """Returns the identity of the namespace and the path the URL gives for it, if it gives one.

    An open file of ours is no such path: it says nothing of who is there.
    None when the URL leads to something else, or nowhere.
    """
    try:
        target = parse(inode_url)
        if not isinstance(target, str):
            return target, ""
        status = os.stat(target)
    except (OSError, InvalidRequest):
        return None
    if status.st_dev != os.stat("/proc/self/ns/net").st_dev:
        return None
    own = target.startswith(f"/proc/{os.getpid()}/fd/")  # a file that we hold keeps no pod
    return (status.st_dev, status.st_ino), "" if own else target


def means(inode_url: str, identity: Identity) -> bool:
    """Says whether the URL names the namespace that has this identity."""
    try:
        target = parse(inode_url)
        if not isinstance(target, str):
            return target == identity
        status = os.stat(target)
    except (OSError, InvalidRequest):
        return False
    return (status.st_dev, status.st_ino) == identity
