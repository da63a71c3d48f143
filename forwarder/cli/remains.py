"""What a local mesh leaves behind when its process is killed, and how it is taken away.

Before `vwire up` makes anything it writes down what it is going to make:

```
/run/vwire/<mesh>/          mode 0700; the mesh's sockets are here too
    record.json             process, and the names of its namespaces
```

Everything else hangs on these: programs in pods die with the process that launched them and
carry the mesh's name in their environment; both ends of every virtual link are inside the
namespaces, so the links go with them.
"""

import contextlib
import json
import os
import select
import shutil
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import psutil

from forwarder.errors import ConfigError
from forwarder.netns import named, remove_name

MARK = "VWIRE_MESH"
"""Environment variable that every program in a pod carries."""
PATIENCE_S = 10.0
"""How long a running `vwire up` may take to end by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remains:
    """The record of one mesh."""

    name: str
    directory: str
    pid: int = 0
    started: float = 0.0
    """When the process began: tells it from another one that got its number."""
    namespaces: tuple[str, ...] = ()

    @classmethod
    def recorded(cls, run_dir: str) -> list[str]:
        """Returns the names of the meshes with a record."""
        directory = Path(run_dir)
        return sorted(path.parent.name for path in directory.glob("*/record.json")) if directory.exists() else []

    @classmethod
    def load(cls, run_dir: str, name: str) -> Self:
        """Reads a record; a mesh without one has nothing left."""
        directory = Path(run_dir) / name
        try:
            fields = json.loads((directory / "record.json").read_text(encoding="utf-8"))
            return cls(
                name=name,
                directory=str(directory),
                pid=int(fields["pid"]),
                started=float(fields["started"]),
                namespaces=tuple(str(each) for each in fields["namespaces"]),
            )
        except FileNotFoundError:
            return cls(name=name, directory=str(directory))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"record of mesh {name!r} in {directory}", detail=str(error)) from error

    def write(self) -> None:
        """Writes the record down, in a directory that only we may enter.

        Raises ConfigError when the directory cannot be made.
        """
        directory = Path(self.directory)
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            directory.mkdir(mode=0o700, exist_ok=True)
            directory.chmod(0o700)
            draft = directory / "record.json.new"
            draft.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
            draft.replace(directory / "record.json")
        except OSError as error:
            raise ConfigError(
                f"directory {directory} cannot be made", detail=error.strerror or "", hint="run as root"
            ) from error

    def process(self) -> psutil.Process | None:
        """Returns the `vwire up` that wrote the record, if it still runs."""
        if not self.pid:
            return None
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return None
        return process if same else None

    def remove(self) -> list[str]:
        """Ends the mesh's processes and removes what is left; returns a line for each thing done.

        Raises NetlinkError when a namespace cannot be removed.
        """
        return list(self._removing())

    def _removing(self) -> Iterator[str]:
        process = self.process()
        if process is not None and process.pid != os.getpid():
            yield from _end(process, signal.SIGTERM, "ended vwire up")
        for program in _marked(self.name):
            yield from _end(program, signal.SIGKILL, "killed")
        present = set(named())
        for namespace in self.namespaces:
            if namespace in present:
                remove_name(namespace)
                yield f"removed namespace {namespace}"
        if Path(self.directory).exists():
            shutil.rmtree(self.directory, ignore_errors=True)
            yield f"removed {self.directory}"
            with contextlib.suppress(OSError):
                Path(self.directory).parent.rmdir()


def _marked(mesh: str) -> Iterator[psutil.Process]:
    """Finds the programs that were launched in a mesh's pods."""
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mesh and process.pid != os.getpid():
                yield process
        except (psutil.Error, OSError):
            continue  # ended, a kernel thread, or not ours to look at


def _end(process: psutil.Process, number: signal.Signals, what: str) -> Iterator[str]:
    """Sends a signal and waits; one that does not end is killed."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        name = process.name()
        for each in (number, signal.SIGKILL):
            signal.pidfd_send_signal(descriptor, each)
            # Readable once it has ended, also while its parent has not asked how.
            if select.select([descriptor], [], [], PATIENCE_S)[0]:
                break
        yield f"{what} (process {process.pid}, {name})"
    except (psutil.NoSuchProcess, ProcessLookupError):
        return
    finally:
        os.close(descriptor)
