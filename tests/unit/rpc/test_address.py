"""Listen and dial URLs."""

import pytest

from forwarder.errors import InvalidRequest
from forwarder.rpc.address import Address, Family


@pytest.mark.parametrize(
    ("text", "expected", "written"),
    [
        ("unix:///run/nsm.sock", Address(family=Family.UNIX, path="/run/nsm.sock"), "unix:///run/nsm.sock"),
        ("unix:/run/nsm.sock", Address(family=Family.UNIX, path="/run/nsm.sock"), "unix:///run/nsm.sock"),
        ("unix:///proc/7/fd/9", Address(family=Family.UNIX, path="/proc/7/fd/9"), "unix:///proc/7/fd/9"),
        ("tcp://10.0.0.1:5001", Address(family=Family.TCP, host="10.0.0.1", port=5001), "tcp://10.0.0.1:5001"),
        ("tcp://:5001", Address(family=Family.TCP, port=5001), "tcp://:5001"),
        ("tcp://[2001:db8::1]:5001", Address(family=Family.TCP, host="2001:db8::1", port=5001), "tcp://[2001:db8::1]:5001"),
        ("registry:5002", Address(family=Family.TCP, host="registry", port=5002), "tcp://registry:5002"),
        ("tcp://registry.nsm-system:5002/", Address(family=Family.TCP, host="registry.nsm-system", port=5002), "tcp://registry.nsm-system:5002"),
        ("tcp://localhost:0", Address(family=Family.TCP, host="localhost", port=0), "tcp://localhost:0"),
        ("inode://4/4026531840", Address(family=Family.INODE, device=4, inode=4026531840), "inode://4/4026531840"),
    ],
)  # fmt: skip
def test_an_address_is_read_and_written(text: str, expected: Address, written: str) -> None:
    assert Address.parse(text) == expected
    assert str(expected) == written
    assert Address.parse(written) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "registry", "tcp://registry", "tcp://a:b", "tcp://a:65536", "tcp://a:-1", "http://a:1", "tcp://a:1/x"),
        *("unix://", "unix:", "unix://relative", "unix:x", "unix:///" + "x" * 200, "unix:///a\0b"),
        *("inode://4", "inode://a/b", "inode://4/-1", "inode://4/5/6", "2001:db8::1:5001", "a b:1", "user@host:1"),
    ],
)
def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Address.parse(text)
    assert repr(text) in str(caught.value)
