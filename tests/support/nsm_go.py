"""NSM's own programs, built from its Go modules, as peers: a registry, a manager, endpoints, clients.

```
            registry            tests/interop/go, `make build/nsm-peer`
               |
client --- manager --- forwarder (ours) --- endpoint
 pod          host, the test's namespace       pod
               |
           authority: `vwire authority`, the Workload API of each on a socket of its own
```

Every program has an identity of its own, speaks mutual TLS and checks NSM's default policies.
"""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.support.netns import Netns
from tests.support.peers import missing
from tests.support.programs import PATIENCE_S, ROOT, Program, command, environment

BINARY = ROOT / "build" / "nsm-peer"
TRUST_DOMAIN = "vwire.test"


def require_nsm() -> None:
    """Skips the test where NSM's modules could not be built; fails it where peers are required."""
    if not BINARY.exists():
        log = BINARY.with_suffix(".log")
        why = log.read_text().strip().splitlines()[-1:] if log.exists() else ["`make build/nsm-peer` has not run"]
        missing(f"build/nsm-peer, from NSM's Go modules: {''.join(why)}")


class Peer(Program):
    """One of NSM's programs, and the events it has told: one JSON object a line."""

    def __init__(self, name: str, process: subprocess.Popen[str], errors: Path, trace: Path) -> None:
        super().__init__(process)
        self.name = name
        self.errors = errors
        """What it logged."""
        self.trace = trace
        """Every gRPC message of it, one JSON object a line."""

    def events(self, event: str = "") -> list[dict[str, Any]]:
        """Returns what it has told so far, of one kind or all."""
        lines = (json.loads(line) for line in self.output.splitlines() if line.endswith("}"))
        return [line for line in lines if event in ("", line["event"])]

    def wait_event(
        self, event: str, match: Callable[[dict[str, Any]], bool] = bool, *, patience_s: float = PATIENCE_S
    ) -> dict[str, Any]:
        """Waits until it has told of an event that `match` likes, and returns the first."""
        deadline = time.monotonic() + patience_s
        while True:
            for told in self.events(event):
                if match(told):
                    return told
            if self.process.poll() is not None or time.monotonic() > deadline:
                logged, output = self.errors.read_text()[-2000:], self.output[-4000:]
                raise AssertionError(f"{self.name} did not tell {event!r} but:\n{output}\n{logged}")
            time.sleep(0.02)

    def messages(self) -> list[dict[str, Any]]:
        """Returns the messages it has sent and got."""
        return [json.loads(line) for line in self.trace.read_text().splitlines() if line.endswith("}")]


class NsmMesh:
    """A node of NSM's programs in one directory, with our forwarder or without."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self._stack = stack
        self._runs = 0
        self.manager_url = f"unix://{directory}/nsm.io.sock"
        self.registry_url = "tcp://127.0.0.1:5002"

    def workload(self, name: str) -> str:
        """Returns where `name` finds its identity: SPIFFE_ENDPOINT_SOCKET."""
        return f"unix://{self.directory}/{name}.spiffe"

    def start(self, what: Program) -> Program:
        """Takes care that a program ends with the mesh."""
        self._stack.callback(end, what)
        return what

    def authority(self, names: Sequence[str], **variables: str) -> Program:
        """Starts the authority that gives each of `names` an identity."""
        workloads = ",".join(f"/{name}={self.workload(name)}" for name in names)
        program = self.vwire(
            "authority", NSM_WORKLOADS=workloads, NSM_TRUST_DOMAIN=TRUST_DOMAIN, name="authority", **variables
        )
        for name in names:
            until(lambda name=name: Path(self.workload(name).removeprefix("unix://")).exists(), "the authority listens")
        return program

    def vwire(self, *arguments: str, name: str, netns: Netns | None = None, **variables: str) -> Program:
        """Starts one of our programs as `name`."""
        argv = command(*arguments)
        process = subprocess.Popen(
            netns.argv(*argv) if netns else argv,
            pass_fds=(netns.fd,) if netns else (),
            env=environment(SPIFFE_ENDPOINT_SOCKET=self.workload(name), **variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return self.start(Program(process))

    def peer(self, program: str, name: str, netns: Netns | None = None, **variables: str) -> Peer:
        """Starts one of NSM's programs as `name`, in a pod if `netns` is given."""
        self._runs += 1
        errors = self.directory / f"{self._runs:02}-{name}.log"
        trace = self.directory / f"{self._runs:02}-{name}.trace"
        argv = [str(BINARY), program]
        settings = {
            "SPIFFE_ENDPOINT_SOCKET": self.workload(name),
            "NSM_NAME": name,
            "NSM_TRACE": str(trace),
            "NSM_LOG_LEVEL": os.environ.get("NSM_GO_LOG_LEVEL", "info"),
            **variables,
        }
        with errors.open("w") as log:
            process = subprocess.Popen(
                netns.argv(*argv) if netns else argv,
                pass_fds=(netns.fd,) if netns else (),
                env=environment(**settings),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        peer = Peer(name, process, errors, trace)
        self.start(peer)
        return peer

    def registry(self, **variables: str) -> Peer:
        """Starts NSM's registry and waits until it serves."""
        peer = self.peer("registry", "registry", NSM_LISTEN_ON=self.registry_url, **variables)
        peer.wait_event("listening")
        return peer

    def manager(self, **variables: str) -> Peer:
        """Starts NSM's manager and waits until it serves."""
        listen_on = f"{self.manager_url},tcp://127.0.0.1:5001"
        settings = {"NSM_LISTEN_ON": listen_on, "NSM_REGISTRY_URL": self.registry_url, **variables}
        peer = self.peer("manager", "manager", **settings)
        peer.wait_event("listening")
        return peer

    def endpoint(self, netns: Netns, name: str = "nse", **variables: str) -> Peer:
        """Starts an endpoint in a pod and waits until it is registered; with an empty NSM_CONNECT_TO it is not."""
        settings = {
            "NSM_CONNECT_TO": self.manager_url,
            "NSM_LISTEN_ON": f"unix://{self.directory}/{name}.sock",
            "NSM_MECHANISMS": "KERNEL",
            **variables,
        }
        peer = self.peer("endpoint", name, netns, **settings)
        peer.wait_event("registered" if settings["NSM_CONNECT_TO"] else "listening")
        return peer

    def client(self, netns: Netns, *services: str, name: str = "nsc", **variables: str) -> Peer:
        """Starts a client in a pod, without waiting for its connections."""
        settings = {"NSM_CONNECT_TO": self.manager_url, "NSM_NETWORK_SERVICES": ",".join(services), **variables}
        return self.peer("client", name, netns, **settings)

    def forwarder(self, **variables: str) -> Program:
        """Starts our forwarder and waits until it is registered."""
        settings = {
            "NSM_NAME": "forwarder",
            "NSM_CONNECT_TO": self.manager_url,
            "NSM_LISTEN_ON": f"unix://{self.directory}/forwarder.sock",
            **variables,
        }
        program = self.vwire("forwarder", name="forwarder", **settings)
        program.wait_for(r"serving, ")
        return program


def end(program: Program) -> None:
    """Ends a program, by force if it does not."""
    try:
        program.end(patience_s=20)
    except subprocess.TimeoutExpired:
        program.end(signal.SIGKILL)
        raise


def kill(program: Program) -> None:
    """Ends a program without giving it a word."""
    program.end(signal.SIGKILL)


def until(holds: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """Waits until something holds."""
    deadline = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience_s:g} s: {what}")
        time.sleep(0.02)


@contextmanager
def nsm_mesh(directory: Path) -> Iterator[NsmMesh]:
    """Gives a directory to the programs of a mesh, and ends them in the reverse order of their start."""
    require_nsm()
    with ExitStack() as stack:
        yield NsmMesh(directory, stack)


IDENTITY = re.compile(rf"^spiffe://{re.escape(TRUST_DOMAIN)}/(.+)$")


def names(connection: dict[str, Any]) -> list[str]:
    """Returns who the hops of a path are."""
    return [segment["name"] for segment in connection["path"]["path_segments"]]


def check_path(connection: dict[str, Any], expected: Sequence[str], caller: str = "") -> None:
    """Checks that a path is as NSM's components make it: names, ids, expiries, and tokens that are chained.

    Each token is by its own hop and for the next one; the last is for the one that called it.
    """
    segments = connection["path"]["path_segments"]
    assert names(connection) == list(expected)
    assert connection["path"].get("index", 0) < len(segments)
    assert segments[connection["path"].get("index", 0)]["id"] == connection["id"]
    assert len({segment["id"] for segment in segments}) == len(segments)
    who = [_subject(segment) for segment in segments]
    assert who == list(expected)
    for segment, audience in zip(segments, [*who[1:], caller or who[-2]], strict=True):
        said = segment["token"]
        assert said["header"] == {"alg": "ES256", "typ": "JWT"}
        assert set(said["claims"]) == {"sub", "aud", "exp"}
        assert said["claims"]["aud"] == [f"spiffe://{TRUST_DOMAIN}/{audience}"]
        assert segment["expires"]


def _subject(segment: dict[str, Any]) -> str:
    found = IDENTITY.match(segment["token"]["claims"]["sub"])
    assert found
    return found[1]
