"""Which namespaces a caller can name, and how."""

import contextlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.errors import InvalidRequest, NetlinkError
from forwarder.mechanisms import inode_url


def test_an_inode_is_named_in_decimal():
    assert inode_url.parse("inode://4/4026532177") == (4, 4026532177)


@pytest.mark.parametrize("path", ["/proc/17/ns/net", "/proc/17/fd/4", "/run/netns/a b"])
def test_a_file_is_named_by_its_path(path):
    assert inode_url.parse(f"file://{path}") == path


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/proc/17/ns/net",
        "http://4/5",
        "inode://4",
        "inode://4/x",
        "inode://-4/5",
        "inode://4/5/6",
        "inode:///5",
        "inode://٤/5",
        "file://proc/17/ns/net",
        "file://localhost/proc/17/ns/net",
        "file://",
        "file:///a\0b",
        "file://[/x",
    ],
)
def test_other_urls_are_refused(url):
    with pytest.raises(InvalidRequest):
        inode_url.parse(url)


@pytest.mark.parametrize(
    "path",
    [
        "/proc/self/ns/net",
        "/proc/thread-self/ns/net",
        "/proc/thread-self/fd/7",
        "/proc/17/../self/ns/net",
        "//proc//self/ns/net",
        "/proc/%73elf/ns/net",
        "/run/../proc/self/ns/net",
        "/proc/17/root/proc/self/ns/net",
    ],
)
def test_a_path_through_the_senders_self_is_refused(path):
    with pytest.raises(InvalidRequest, match="sender's own"):
        inode_url.parse(f"file://{path}")


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text):
    for url in (text, f"file:///{text}", f"inode://{text}"):
        with contextlib.suppress(InvalidRequest):
            inode_url.parse(url)


@pytest.mark.parametrize(
    "url", ["file:///nowhere", "file:///dev/null", "file:///proc/4194304/ns/net", "inode://4/1", f"file:///{'x' * 300}"]
)
def test_a_namespace_that_is_not_there_is_the_callers_mistake(url):
    with pytest.raises(InvalidRequest, match="inodeURL") as caught:
        inode_url.open_netns(url)
    assert isinstance(caught.value.__cause__, NetlinkError)


def test_two_urls_mean_the_same_namespace():
    path = f"/proc/{os.getpid()}/ns/net"
    status = os.stat(path)
    identity = (status.st_dev, status.st_ino)
    assert inode_url.means(f"file://{path}", identity)
    assert inode_url.means(f"inode://{identity[0]}/{identity[1]}", identity)
    assert not inode_url.means(f"inode://{identity[0]}/{identity[1] + 1}", identity)
    assert not inode_url.means("file:///nowhere", identity)
    assert not inode_url.means("nonsense", identity)


def test_a_namespace_is_identified_by_its_url_and_other_files_are_none(tmp_path):
    own = os.stat("/proc/self/ns/net")
    path = f"/proc/{os.getpid()}/ns/net"
    assert inode_url.identify("inode://4/17") == ((4, 17), "")
    assert inode_url.identify(f"file://{path}") == ((own.st_dev, own.st_ino), path)
    for other in (f"file://{tmp_path}", f"file://{tmp_path}/none", "http://4/5", "file:///proc/self/ns/net"):
        assert inode_url.identify(other) is None


def test_an_open_file_of_ours_identifies_a_namespace_and_is_no_place_to_look_for_it() -> None:
    descriptor = os.open("/proc/self/ns/net", os.O_PATH | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        url = f"file:///proc/{os.getpid()}/fd/{descriptor}"
        assert inode_url.identify(url) == ((found.st_dev, found.st_ino), "")
    finally:
        os.close(descriptor)
