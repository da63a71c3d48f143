"""The MEMIF mechanism: from parameters to a port's specification, and what is written back."""

import contextlib
import errno
import os
import socket
from types import SimpleNamespace

import pytest

from forwarder.api import connection_pb2
from forwarder.api.context import Side
from forwarder.dataplane.spec import Mode, Role
from forwarder.errors import DataplaneError, InvalidRequest
from forwarder.mechanisms.memif import MemifMechanism


class FakePorts:
    """Stands for the data plane: keeps the specifications it is given."""

    def __init__(self, fail_with=()):
        self.specs = []
        self.netns = []
        self.open = 0
        self.fail_with = list(fail_with)

    @contextlib.asynccontextmanager
    async def memif_port(self, spec):
        self.specs.append(spec)
        self.netns.append(None if spec.netns is None else os.fstat(spec.netns).st_ino)
        if self.fail_with and (number := self.fail_with.pop(0)):
            raise DataplaneError("no", errno=number)
        self.open += 1
        try:
            yield SimpleNamespace()
        finally:
            self.open -= 1


OURS = os.stat("/proc/self/ns/net")
OUR_URL = f"inode://{OURS.st_dev}/{OURS.st_ino}"


def connection(payload="ETHERNET", connection_id="c-1", **parameters):
    return connection_pb2.Connection(
        id=connection_id,
        payload=payload,
        mechanism=connection_pb2.Mechanism(cls="LOCAL", type="MEMIF", parameters=parameters),
    )


def from_caller(**more):
    return connection(**{"inodeURL": OUR_URL, **more})


def from_endpoint(**more):
    return connection(**{"inodeURL": OUR_URL, "socketfile": "@/there", **more})


@pytest.fixture(autouse=True)
def no_tmpdir(monkeypatch):
    monkeypatch.delenv("TMPDIR", raising=False)


def test_we_offer_memif_without_parameters():
    offered = MemifMechanism(FakePorts()).preference(connection())
    assert (offered.cls, offered.type, dict(offered.parameters)) == ("LOCAL", "MEMIF", {})


@pytest.mark.parametrize(
    ("side", "parameters", "named"),
    [
        (Side.CLIENT, {}, "inodeURL"),
        (Side.CLIENT, {"inodeURL": "https://example.org"}, "inodeURL"),
        (Side.CLIENT, {"inodeURL": "inode://x/y"}, "inodeURL"),
        (Side.CLIENT, {"inodeURL": "file:///proc/self/ns/net"}, "inodeURL"),
        (Side.ENDPOINT, {"socketfile": "@/there"}, "inodeURL"),
        (Side.ENDPOINT, {"inodeURL": OUR_URL}, "socketfile"),
        (Side.ENDPOINT, {"inodeURL": OUR_URL, "socketfile": "relative/path"}, "socketfile"),
        (Side.ENDPOINT, {"inodeURL": OUR_URL, "socketfile": "@"}, "socketfile"),
        (Side.ENDPOINT, {"inodeURL": OUR_URL, "socketfile": "@a\0b"}, "socketfile"),
        (Side.ENDPOINT, {"inodeURL": OUR_URL, "socketfile": "@" + "x" * 108}, "socketfile"),
    ],
)
def test_a_missing_or_wrong_parameter_is_named(side, parameters, named):
    with pytest.raises(InvalidRequest, match=named):
        MemifMechanism(FakePorts()).check(connection(**parameters).mechanism, side)


def test_another_mechanism_is_refused():
    with pytest.raises(InvalidRequest, match="KERNEL"):
        MemifMechanism(FakePorts()).check(connection_pb2.Mechanism(type="KERNEL"), Side.CLIENT)


async def test_towards_the_caller_we_listen_in_its_namespace_and_say_where():
    ports, asked = FakePorts(), from_caller(name="nsm-1")
    async with MemifMechanism(ports).open(Side.CLIENT, asked) as opened:
        (spec,) = ports.specs
        assert (spec.role, spec.interface_id, spec.mode) == (Role.SERVER, 0, Mode.ETHERNET)
        assert spec.address == "@/tmp/memif/c-1/memif.socket" == asked.mechanism.parameters["socketfile"]
        assert ports.netns == [OURS.st_ino]
        assert opened.interface == "MEMIF/nsm-1"
    assert ports.open == 0


async def test_rings_have_the_size_that_the_mechanism_is_given():
    ports = FakePorts()
    async with MemifMechanism(ports, log2_ring_size=9, buffer_bytes=4096).open(Side.CLIENT, from_caller()):
        (spec,) = ports.specs
        assert (spec.log2_ring_size, spec.buffer_bytes) == (9, 4096)


async def test_towards_the_next_hop_we_connect_to_the_socket_it_named():
    ports, answered = FakePorts(), from_endpoint(payload="IP")
    async with MemifMechanism(ports).open(Side.ENDPOINT, answered):
        (spec,) = ports.specs
        assert (spec.role, spec.interface_id, spec.mode) == (Role.CLIENT, 0, Mode.IP)
        assert spec.address == "@/there"
        assert ports.netns == [OURS.st_ino]
        assert answered.mechanism.parameters["socketfile"] == "@/there"


async def test_socket_names_start_with_the_directory_for_temporary_files(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    asked = from_caller()
    async with MemifMechanism(FakePorts()).open(Side.CLIENT, asked):
        assert asked.mechanism.parameters["socketfile"] == "@/var/tmp/memif/c-1/memif.socket"
    async with MemifMechanism(FakePorts(), directory="/run/vw").open(Side.CLIENT, asked):
        assert asked.mechanism.parameters["socketfile"] == "@/run/vw/memif/c-1/memif.socket"


@pytest.mark.parametrize("connection_id", ["x" * 83, "naïve", "a\0b"])
async def test_an_id_that_is_no_name_is_replaced_by_its_digest(connection_id):
    asked = from_caller(connection_id=connection_id)
    async with MemifMechanism(FakePorts()).open(Side.CLIENT, asked):
        name = asked.mechanism.parameters["socketfile"]
        assert name.startswith("@/tmp/memif/")
        assert name.isascii()
        assert len(name) <= 108


async def test_a_name_that_somebody_holds_is_replaced():
    ports, asked = FakePorts(fail_with=[errno.EADDRINUSE]), from_caller()
    async with MemifMechanism(ports).open(Side.CLIENT, asked):
        assert asked.mechanism.parameters["socketfile"] == ports.specs[1].address
        assert ports.specs[1].address.startswith("@/tmp/memif/c-1.")


@pytest.mark.parametrize("failures", [[errno.EACCES], [errno.EADDRINUSE] * 4])
async def test_a_port_that_cannot_be_opened_leaves_nothing(failures):
    ports, asked = FakePorts(fail_with=failures), from_caller()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(DataplaneError):
        async with MemifMechanism(ports).open(Side.CLIENT, asked):
            pass
    assert os.listdir("/proc/self/fd") == before
    assert "socketfile" not in asked.mechanism.parameters


async def test_a_namespace_that_does_not_exist_is_the_callers_mistake():
    with pytest.raises(InvalidRequest, match="inodeURL"):
        async with MemifMechanism(FakePorts()).open(Side.CLIENT, from_caller(inodeURL="inode://4/1")):
            pass


async def test_an_open_port_serves_the_same_request_again():
    asked = from_caller()
    async with MemifMechanism(FakePorts()).open(Side.CLIENT, asked) as opened:
        again = from_caller()
        assert opened.serves(asked)
        assert opened.serves(again)
        await opened.update(again)
        assert again.mechanism == asked.mechanism


async def test_an_open_port_does_not_serve_something_else():
    async with MemifMechanism(FakePorts()).open(Side.CLIENT, from_caller()) as opened:
        assert not opened.serves(from_caller(payload="IP"))
        assert not opened.serves(from_caller(inodeURL="inode://4/1"))
        assert not opened.serves(connection())
        other = from_caller()
        other.mechanism.type = "KERNEL"
        assert not opened.serves(other)
    async with MemifMechanism(FakePorts()).open(Side.ENDPOINT, from_endpoint()) as opened:
        assert opened.serves(from_endpoint())
        assert not opened.serves(from_endpoint(socketfile="@/elsewhere"))


async def test_an_inode_url_may_be_a_socket_file(tmp_path):
    path = tmp_path / "memif.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as holder:
        holder.bind(str(path))
    for side, role in ((Side.CLIENT, Role.SERVER), (Side.ENDPOINT, Role.CLIENT)):
        ports, asked = FakePorts(), connection(inodeURL=f"file://{path}")
        async with MemifMechanism(ports).open(side, asked) as opened:
            (spec,) = ports.specs
            assert (spec.role, spec.address, spec.netns) == (role, str(path), None)
            assert dict(asked.mechanism.parameters) == {"inodeURL": f"file://{path}"}
            assert opened.serves(connection(inodeURL=f"file://{path}"))
            assert not opened.serves(from_caller())


async def test_peers_that_can_truncate_their_memory_need_permission():
    for allowed in (False, True):
        ports = FakePorts()
        async with MemifMechanism(ports, allow_unsealed=allowed).open(Side.CLIENT, from_caller()):
            assert ports.specs[0].allow_unsealed is allowed
