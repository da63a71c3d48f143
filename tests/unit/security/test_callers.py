"""Who may ask about a connection that somebody else asked for."""

import pytest

from forwarder.api.x509 import Peer
from forwarder.errors import NotAuthorized
from forwarder.security import check_caller

MANAGER = "spiffe://k8s.nsm/ns/nsm-system/pod/nsmgr-7tlpx"


def peer(identity: str) -> Peer:
    return Peer(identity=identity, certificate=b"")


@pytest.mark.parametrize(
    ("asked_by", "caller"),
    [
        (MANAGER, peer(MANAGER)),
        (MANAGER, peer("spiffe://k8s.nsm/ns/nsm-system/pod/nsmgr-x2d9k")),
        ("spiffe://k8s.nsm/nsmgr", peer("spiffe://k8s.nsm/nsmgr")),
        ("", peer(MANAGER)),
        (MANAGER, None),
    ],
)
def test_the_same_workload_and_its_successor_may(asked_by: str, caller: Peer | None) -> None:
    check_caller(asked_by, caller)


@pytest.mark.parametrize(
    ("asked_by", "caller"),
    [
        (MANAGER, "spiffe://k8s.nsm/ns/default/pod/nsmgr-7tlpx"),
        (MANAGER, "spiffe://other.nsm/ns/nsm-system/pod/nsmgr-7tlpx"),
        (MANAGER, "spiffe://k8s.nsm/ns/nsm-system/pod/nsmgr-7tlpx/more"),
        (MANAGER, "spiffe://k8s.nsm/nsmgr-7tlpx"),
        ("spiffe://k8s.nsm/nsmgr", "spiffe://k8s.nsm/other"),
    ],
)
def test_anybody_else_may_not_and_is_told_whose_it_is(asked_by: str, caller: str) -> None:
    with pytest.raises(NotAuthorized, match=f"asked for by {asked_by}, not by {caller}"):
        check_caller(asked_by, peer(caller))
