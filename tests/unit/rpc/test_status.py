"""Exceptions become statuses, and statuses exceptions."""

import errno
import logging

import grpc
import pytest

from forwarder import errors
from forwarder.errors import (
    ConnectionNotFound,
    DataplaneError,
    EndpointNotFound,
    ForwarderError,
    InvalidRequest,
    MechanismUnsupported,
    NameTaken,
    NetlinkError,
    NextHopError,
    NotAuthorized,
)
from forwarder.rpc import status

Code = grpc.StatusCode


def tree(kind: type[ForwarderError]) -> list[type[ForwarderError]]:
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in tree(child))]


PUBLIC = [
    kind for kind in tree(ForwarderError) if not kind.__name__.startswith("_") and kind.__module__ == errors.__name__
]


@pytest.mark.parametrize("kind", PUBLIC)
def test_every_exception_has_a_status_of_its_own(kind: type[ForwarderError]) -> None:
    assert kind in status.CODES


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest("x"), Code.INVALID_ARGUMENT),
        (NameTaken("x"), Code.ALREADY_EXISTS),
        (MechanismUnsupported("x"), Code.FAILED_PRECONDITION),
        (NotAuthorized("x"), Code.PERMISSION_DENIED),
        (ConnectionNotFound("x"), Code.NOT_FOUND),
        (EndpointNotFound("x"), Code.NOT_FOUND),
        (DataplaneError("x"), Code.INTERNAL),
        (NetlinkError("x", errno=errno.EEXIST), Code.ALREADY_EXISTS),
        (NetlinkError("x", errno=errno.EPERM), Code.FAILED_PRECONDITION),
        (NetlinkError("x", errno=errno.ENODEV), Code.NOT_FOUND),
        (NetlinkError("x", errno=errno.EIO), Code.INTERNAL),
        (DataplaneError("x", errno=errno.ENOMEM), Code.RESOURCE_EXHAUSTED),
        (NextHopError("x", status="UNAVAILABLE"), Code.UNAVAILABLE),
        (NextHopError("x", status="NO_SUCH_CODE"), Code.UNKNOWN),
        (NextHopError("x", status="OK"), Code.UNKNOWN),
        (NextHopError("x", status="CANCELLED"), Code.UNKNOWN),
        (TimeoutError(), Code.DEADLINE_EXCEEDED),
    ],
)
def test_status_of_an_exception(error: Exception, code: grpc.StatusCode) -> None:
    assert status.of(error)[0] is code


def test_a_subclass_defined_elsewhere_has_its_parent_s_status() -> None:
    class WrongPort(InvalidRequest):
        pass

    assert status.of(WrongPort("x"))[0] is Code.INVALID_ARGUMENT


def test_the_detail_says_what_was_tried_what_came_back_and_the_hint() -> None:
    error = NetlinkError("make link nsm-1 in netns 4026531840", errno=errno.EEXIST, hint="remove it")
    assert status.of(error)[1] == "make link nsm-1 in netns 4026531840: File exists (remove it)"


def test_an_unexpected_exception_tells_the_peer_nothing_and_the_log_everything(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(KeyError) as caught:
        raise KeyError("secret")
    with caplog.at_level(logging.ERROR):
        assert status.of(caught.value) == (Code.INTERNAL, "internal error")
    assert "KeyError: 'secret'" in caplog.text


def test_an_expected_exception_is_not_logged_as_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    status.of(InvalidRequest("x"))
    assert not caplog.records


def test_a_group_of_expected_exceptions_has_the_status_of_its_first() -> None:
    group = ExceptionGroup("tasks", [ExceptionGroup("inner", [InvalidRequest("first")]), NetlinkError("second")])
    assert status.of(group) == (Code.INVALID_ARGUMENT, "first")


def test_a_group_with_a_bug_in_it_is_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    assert status.of(ExceptionGroup("tasks", [InvalidRequest("x"), KeyError("y")]))[0] is Code.INTERNAL
    assert "KeyError" in caplog.text


def test_a_long_detail_is_cut() -> None:
    detail = status.of(InvalidRequest("ä" * 10_000))[1]
    assert len(detail.encode()) <= status.DETAIL_BYTES + 3
    assert detail.endswith("…")


def test_a_status_comes_back_as_next_hop_error_with_the_same_name() -> None:
    answer = grpc.aio.AioRpcError(Code.NOT_FOUND, grpc.aio.Metadata(), grpc.aio.Metadata(), details="no endpoint")
    error = status.next_hop_error(answer, "Request to unix:///x")
    assert (error.status, error.detail) == ("NOT_FOUND", "no endpoint")
    assert str(error) == "Request to unix:///x failed with NOT_FOUND: no endpoint"
    assert status.of(error) == (Code.NOT_FOUND, str(error))
