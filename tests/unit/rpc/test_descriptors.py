"""What `inodeURL` means on the wire and in this process."""

from pathlib import Path

import pytest

from forwarder.api.connection_pb2 import Mechanism
from forwarder.api.mechanisms import Kernel, Memif
from forwarder.errors import InvalidRequest
from forwarder.rpc import PassThrough, descriptors


@pytest.mark.parametrize(
    "url",
    [
        "file:///proc/self/ns/net",
        "file:///proc/thread-self/ns/net",
        "file:////proc//self/ns/net",
        "file:///proc/1/../self/ns/net",
        "file:///proc/%73elf/ns/net",
        "file:///proc/./thread-self/ns/net",
        "file:///proc/self",
    ],
)
async def test_a_peer_s_own_process_cannot_be_named_from_afar(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await PassThrough().received(url)
    assert repr(url) in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "file:///proc/12/ns/net",
        "file:///proc/selfish",
        "file:///run/netns/pod",
        "inode://4/4026531840",
        "weird",
        "a://b",
    ],
)
async def test_other_names_pass_as_they_are(url: str) -> None:
    assert await PassThrough().received(url) == url


@pytest.mark.parametrize("url", ["inode://", "inode://4", "inode://x/y", "inode://4/5/6", "inode://4/-5"])
async def test_a_malformed_inode_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        await PassThrough().received(url)


def test_a_file_goes_out_as_its_numbers(tmp_path: Path) -> None:
    file = tmp_path / "a name"
    file.touch()
    link = tmp_path / "link"
    link.symlink_to(file)
    found = file.stat()
    expected = f"inode://{found.st_dev}/{found.st_ino}"
    assert PassThrough().sent(f"file://{file}") == expected
    assert PassThrough().sent(f"file://{link}") == expected
    assert PassThrough().sent(f"file://{tmp_path}/a%20name") == expected


def test_our_own_namespace_goes_out_as_its_numbers() -> None:
    found = Path("/proc/thread-self/ns/net").stat()
    assert PassThrough().sent("file:///proc/thread-self/ns/net") == f"inode://{found.st_dev}/{found.st_ino}"


def test_a_file_that_is_not_there_is_refused_with_its_name_and_the_reason(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="No such file") as caught:
        PassThrough().sent(f"file://{tmp_path}/gone")
    assert f"{tmp_path}/gone" in str(caught.value)


def test_a_file_name_with_a_zero_byte_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        PassThrough().sent("file:///a%00b")


async def test_mechanisms_are_rewritten_in_place_and_back(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    offered = [Kernel.new(inode_url=url).mechanism, Memif.new().mechanism, Mechanism(type="VXLAN")]
    mapping = descriptors.send(PassThrough(), offered)
    sent = Kernel(offered[0]).inode_url
    assert sent.startswith("inode://")
    assert mapping == {sent: url}
    assert not offered[1].parameters
    assert await descriptors.receive(PassThrough(), offered) == {}
    assert descriptors.restore(mapping, offered[0])
    assert Kernel(offered[0]).inode_url == url
    other = Kernel.new(inode_url="inode://1/2").mechanism
    assert not descriptors.restore(mapping, other)
    assert Kernel(other).inode_url == "inode://1/2"
