"""A forwarder and an endpoint as programs of their own, and a caller that speaks the plain API."""

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.programs import running
from bench.trees import THIS, Tree
from forwarder.api import connection_pb2, connectioncontext_pb2, networkservice_pb2
from forwarder.rpc import networkservice_pb2_grpc
from tests.support.netns import Netns, network_namespaces

SERVICE = "bench"
KERNEL = "KERNEL"
MTU_BYTES = 1500


def wait_serving(socket: Path, process: subprocess.Popen[str], log: Path, *, limit_s: float = 15) -> None:
    """Returns as soon as the program that listens on `socket` answers SERVING to a health check."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and process.poll() is None:
        if socket.exists():
            with grpc.insecure_channel(f"unix://{socket}") as channel, contextlib.suppress(grpc.RpcError):
                reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    return
        time.sleep(0.001)
    raise RuntimeError(f"{process.args}: does not serve on {socket}\n{log.read_text()[-3000:]}")


@contextmanager
def program(
    name: str, settings: Mapping[str, str], scratch: Path, netns: Netns, *, tree: Tree = THIS
) -> Iterator[subprocess.Popen[str]]:
    """Runs `vwire NAME` in a namespace; `settings` are environment variables, NSM_LISTEN_ON is made here."""
    environment = tree.environment({"NSM_LISTEN_ON": f"unix://{scratch / name}.sock"} | dict(settings))
    command = netns.argv(*tree.python("-m", "forwarder", name, "--insecure"))
    options = {"env": environment, "pass_fds": (netns.fd,), "stdout": subprocess.DEVNULL}
    with running(command, scratch / f"{name}.log", **options) as process:
        yield process


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A node with its forwarder, a pod that serves, and a pod to connect from."""

    scratch: Path
    node: Netns
    client: Netns
    server: Netns
    forwarder: subprocess.Popen[str]
    stub: networkservice_pb2_grpc.NetworkServiceStub

    def request(self, number: int = 1, netns: Netns | None = None) -> connection_pb2.Connection:
        """Asks the forwarder for a kernel vWire named nsm-NUMBER in the client's namespace."""
        return self.stub.Request(asked(number, (netns or self.client).path), timeout=15)

    def close(self, connection: connection_pb2.Connection) -> None:
        """Closes a connection that `request` returned."""
        self.stub.Close(connection, timeout=15)


def asked(number: int, netns: str) -> networkservice_pb2.NetworkServiceRequest:
    """Returns a Request for a kernel vWire named nsm-NUMBER in the namespace at a path."""
    name = f"bench-{number}"
    expires = Timestamp()
    expires.FromSeconds(int(time.time()) + 600)
    segment = connection_pb2.PathSegment(name="bench", id=name, expires=expires)
    mechanism = connection_pb2.Mechanism(cls="LOCAL", type=KERNEL)
    mechanism.parameters.update({"inodeURL": f"file://{netns}", "name": f"nsm-{number}"})
    return networkservice_pb2.NetworkServiceRequest(
        connection=connection_pb2.Connection(
            id=name,
            network_service=SERVICE,
            payload="ETHERNET",
            context=connectioncontext_pb2.ConnectionContext(MTU=MTU_BYTES),
            path=connection_pb2.Path(index=0, path_segments=[segment]),
        ),
        mechanism_preferences=[mechanism],
    )


@contextmanager
def domain(*, tree: Tree = THIS, datapath: str = "") -> Iterator[Domain]:
    """Starts endpoint and forwarder and waits until both serve.

    `datapath` is NSM_DATAPATH; empty for the forwarder's own choice.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        node, client, server = stack.enter_context(network_namespaces(3))
        settings = {"NSM_NAME": "bench-endpoint", "NSM_SERVICE_NAMES": SERVICE, "NSM_CIDR_PREFIX": "10.66.0.0/16"}
        endpoint = stack.enter_context(program("endpoint", settings, scratch, server, tree=tree))
        settings = {
            "NSM_NAME": "bench-forwarder",
            "NSM_NEXT_HOP": f"unix://{scratch / 'endpoint.sock'}",
            "NSM_MECHANISM_PRIORITY": KERNEL,
        } | ({"NSM_DATAPATH": datapath} if datapath else {})
        forwarder = stack.enter_context(program("forwarder", settings, scratch, node, tree=tree))
        wait_serving(scratch / "endpoint.sock", endpoint, scratch / "endpoint.log")
        wait_serving(scratch / "forwarder.sock", forwarder, scratch / "forwarder.log")
        channel = stack.enter_context(grpc.insecure_channel(f"unix://{scratch / 'forwarder.sock'}"))
        yield Domain(
            scratch=scratch,
            node=node,
            client=client,
            server=server,
            forwarder=forwarder,
            stub=networkservice_pb2_grpc.NetworkServiceStub(channel),
        )
