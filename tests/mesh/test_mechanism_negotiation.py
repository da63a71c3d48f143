"""Which mechanism a Request gets, and what bad ones get: a clear error, and nothing left."""

import pytest

from forwarder.api.connection_pb2 import Mechanism
from forwarder.errors import NextHopError
from tests.support.domain import domain, kernel, links, memif, pod


async def test_preferences_are_respected_in_order_and_unknown_ones_skipped(tmp_path):
    """C-36."""
    async with domain(tmp_path) as mesh:
        with pod() as netns:
            async with mesh.hop() as hop:
                vfio = Mechanism(cls="LOCAL", type="VFIO")
                for number, (preferences, chosen) in enumerate(
                    [
                        ([kernel(netns), memif(netns)], "KERNEL"),
                        ([memif(netns), kernel(netns)], "MEMIF"),
                        ([vfio, memif(netns)], "MEMIF"),
                    ]
                ):
                    request = mesh.request(*preferences, client=f"nsc-{number}")
                    answer = await hop.request(request, timeout_s=10)
                    assert answer.mechanism.type == chosen
                    assert (answer.mechanism.parameters.get("socketfile", "") != "") == (chosen == "MEMIF")
                    await hop.close(answer, timeout_s=10)


async def test_the_mechanism_that_fails_makes_room_for_the_next_one(tmp_path):
    """C-36: the namespace of the first preference does not exist."""
    async with domain(tmp_path) as mesh:
        with pod() as netns:
            gone = kernel(netns)
            gone.parameters["inodeURL"] = "inode://4/1"
            async with mesh.hop() as hop:
                answer = await hop.request(mesh.request(gone, memif(netns)), timeout_s=10)
                assert answer.mechanism.type == "MEMIF"
                await hop.close(answer, timeout_s=10)


def spoilt(mechanism, **parameters):
    for key, value in parameters.items():
        mechanism.parameters[key] = value
    return mechanism


BAD = {
    "unknown mechanism": (lambda netns: [Mechanism(type="CARRIER-PIGEON")], "FAILED_PRECONDITION", "CARRIER-PIGEON"),
    "no mechanism": (lambda netns: [], "INVALID_ARGUMENT", "asks for no mechanism"),
    "no namespace": (lambda netns: [spoilt(kernel(netns), inodeURL="")], "INVALID_ARGUMENT", "inodeURL"),
    "no name": (lambda netns: [spoilt(kernel(netns), name="")], "INVALID_ARGUMENT", "name"),
    "name too long": (lambda netns: [kernel(netns, "an-interface-name-too-long")], "INVALID_ARGUMENT", "name"),
    "namespace does not exist": (
        lambda netns: [spoilt(kernel(netns), inodeURL="inode://4/1")], "INVALID_ARGUMENT", "inode://4/1",
    ),
    "malformed URL": (lambda netns: [spoilt(kernel(netns), inodeURL="inode://four")], "INVALID_ARGUMENT", "inode"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "status", "says"), BAD.values(), ids=BAD)
async def test_bad_input_gets_a_clear_error_and_leaves_nothing(tmp_path, make, status, says):
    async with domain(tmp_path) as mesh:
        with pod() as netns:
            async with mesh.hop() as hop:
                with pytest.raises(NextHopError, match=says) as caught:
                    await hop.request(mesh.request(*make(netns)), timeout_s=10)
                assert caught.value.status == status
                assert links(netns) == links(mesh.endpoint_netns) == []
                assert len(mesh.endpoint) == 0
                answer = await hop.request(mesh.request(kernel(netns)), timeout_s=10)
                await hop.close(answer, timeout_s=10)


async def test_a_name_that_is_taken_is_refused_and_the_interface_that_has_it_stays(tmp_path):
    async with domain(tmp_path) as mesh:
        with pod() as netns:
            async with mesh.hop() as hop:
                await hop.request(mesh.request(kernel(netns), client="one"), timeout_s=10)
                with pytest.raises(NextHopError, match="the name is taken by") as caught:
                    await hop.request(mesh.request(kernel(netns), client="two"), timeout_s=10)
                assert caught.value.status == "ALREADY_EXISTS"
                assert links(netns) == ["nsm-1"]
                assert len(mesh.endpoint) == 1


async def test_a_path_without_expiry_and_one_that_does_not_fit_are_refused(tmp_path):
    async with domain(tmp_path) as mesh:
        with pod() as netns:
            async with mesh.hop() as hop:
                request = mesh.request(kernel(netns))
                request.connection.path.path_segments[0].ClearField("expires")
                with pytest.raises(NextHopError, match="no expiry"):
                    await hop.request(request, timeout_s=10)
                request = mesh.request(kernel(netns))
                request.connection.path.index = 7
                with pytest.raises(NextHopError, match="outside a path") as caught:
                    await hop.request(request, timeout_s=10)
                assert caught.value.status == "INVALID_ARGUMENT"
