"""Open files that came with RPCs, under names that stay the same for as long as a connection needs them.

A mechanism names a network namespace by `/proc/<pid>/fd/<n>`, and its connection refers to it until
it is closed: the name must not change with a refresh, nor come to mean another file.

Source: Network Service Mesh sdk, `common/mechanisms/recvfd`: one file for each connection id and inode.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from forwarder.rpc.descriptor_table import Inode


class _Kept:
    def __init__(self) -> None:
        self.descriptors: dict[Inode, int] = {}
        self.users = 0


class KeptFiles:
    """Files by the connection they came for, given by its id. Owns them."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}

    def __len__(self) -> int:
        """Returns how many files are kept."""
        return sum(len(each.descriptors) for each in self._kept.values())

    @contextmanager
    def using(self, connection_id: str) -> Iterator[None]:
        """Keeps a connection's files; the last who leaves this for it closes them."""
        kept = self._kept.setdefault(connection_id, _Kept())
        kept.users += 1
        try:
            yield
        finally:
            kept.users -= 1
            if not kept.users:
                del self._kept[connection_id]
                for descriptor in kept.descriptors.values():
                    os.close(descriptor)

    def path(self, connection_id: str, inode: Inode) -> str | None:
        """Returns the name of a file that is kept for a connection; None if it is not."""
        kept = self._kept.get(connection_id)
        descriptor = kept.descriptors.get(inode) if kept is not None else None
        return None if descriptor is None else f"/proc/{os.getpid()}/fd/{descriptor}"

    def keep(self, connection_id: str, inode: Inode, descriptor: int) -> str:
        """Takes over a file, for a connection that somebody is `using`; returns its name."""
        before = self._kept[connection_id].descriptors.setdefault(inode, descriptor)
        if before != descriptor:
            os.close(descriptor)
        return f"/proc/{os.getpid()}/fd/{before}"
