"""Which connections a monitor's selector takes."""

import pytest

from forwarder.api import monitor
from forwarder.api.connection_pb2 import Connection, MonitorScopeSelector, Path, PathSegment

Segments = list[tuple[str, str] | tuple[str, str, str]]


def segments(given: Segments) -> list[PathSegment]:
    return [PathSegment(name=each[0], id=each[1], token=each[2] if len(each) == 3 else "") for each in given]


def connection(service: str = "icmp", *given: tuple[str, str] | tuple[str, str, str]) -> Connection:
    path: Segments = list(given) or [("nsc", "1"), ("fwd", "2", "tok"), ("nse", "3")]
    return Connection(id="2", network_service=service, path=Path(index=1, path_segments=segments(path)))


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        ([], True),
        ([("nsc", "1")], True),
        ([("fwd", "2")], True),
        ([("nse", "3")], True),
        ([("nsc", "1"), ("fwd", "2")], True),
        ([("fwd", "2"), ("nse", "3")], True),
        ([("nsc", "1"), ("fwd", "2"), ("nse", "3")], True),
        ([("", "2")], True),
        ([("fwd", "")], True),
        ([("", "")], True),
        ([("", "", "tok")], True),
        ([("", "1"), ("fwd", "")], True),
        ([("nsc", "1"), ("nse", "3")], False),
        ([("fwd", "2"), ("nsc", "1")], False),
        ([("fwd", "1")], False),
        ([("", "", "other")], False),
        ([("", "")] * 4, False),
        ([("nse", "3"), ("", "")], False),
    ],
)
def test_segments_match_consecutively_from_anywhere(wanted: Segments, taken: bool) -> None:
    assert monitor.matches(MonitorScopeSelector(path_segments=segments(wanted)), connection()) is taken


@pytest.mark.parametrize(
    ("services", "taken"), [([], True), (["icmp"], True), (["other", "icmp"], True), (["other"], False), ([""], False)]
)
def test_the_service_has_to_be_among_those_named(services: list[str], taken: bool) -> None:
    assert monitor.matches(MonitorScopeSelector(network_services=services), connection()) is taken


@pytest.mark.parametrize(
    ("service", "identity", "taken"),
    [("icmp", "2", True), ("icmp", "9", False), ("other", "2", False), ("other", "9", False)],
)
def test_service_and_segments_have_both_to_match(service: str, identity: str, taken: bool) -> None:
    selector = MonitorScopeSelector(network_services=[service], path_segments=segments([("", identity)]))
    assert monitor.matches(selector, connection()) is taken


def test_expiry_and_metrics_do_not_count() -> None:
    selector = MonitorScopeSelector(path_segments=segments([("nsc", "1")]))
    selector.path_segments[0].expires.seconds = 7
    selector.path_segments[0].metrics["a"] = "b"
    assert monitor.matches(selector, connection())


def test_a_repeated_beginning_is_found_again_later() -> None:
    path = connection("icmp", ("a", "1"), ("a", "1"), ("b", "2"))
    assert monitor.matches(MonitorScopeSelector(path_segments=segments([("a", "1"), ("b", "2")])), path)


def test_connections_without_path_match_only_without_segments() -> None:
    bare = Connection(id="1", network_service="icmp")
    assert monitor.matches(MonitorScopeSelector(), bare)
    assert not monitor.matches(MonitorScopeSelector(path_segments=segments([("", "")])), bare)


def test_select_keeps_keys() -> None:
    given = {"x": connection("icmp"), "y": connection("dns")}
    assert list(monitor.select(MonitorScopeSelector(network_services=["dns"]), given)) == ["y"]
