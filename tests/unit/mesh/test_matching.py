"""Which endpoints serve which client, rule by rule."""

from collections.abc import Mapping, Sequence

import pytest

from forwarder.api.registry_pb2 import (
    Destination,
    Match,
    Metadata,
    NetworkService,
    NetworkServiceEndpoint,
    NetworkServiceLabels,
)
from forwarder.mesh.matching import is_subset, match_endpoints, unexpired
from forwarder.mesh.round_robin import LIMIT, RoundRobin
from tests.support.connections import timestamp

SERVICE = "web"


def nse(name: str, service: str = SERVICE, **labels: str) -> NetworkServiceEndpoint:
    return NetworkServiceEndpoint(
        name=name,
        network_service_names=[service],
        network_service_labels={service: NetworkServiceLabels(labels=labels)},
    )


def to(**selector: str) -> Destination:
    return Destination(destination_selector=selector)


def match(
    *routes: Destination, when: Mapping[str, str] | None = None, fall: bool = False, metadata: bool = False
) -> Match:
    made = Match(source_selector=when or {}, routes=routes)
    made.fallthrough = fall
    if metadata:
        made.metadata.CopyFrom(Metadata(labels={"my_cap": "true"}))
    return made


A, B, C = nse("a", app="fw"), nse("b", app="gw"), nse("c", app="gw", nodeName="node-2")
BARE = NetworkServiceEndpoint(name="bare", network_service_names=[SERVICE])
ELSEWHERE = nse("else", "other", app="fw")
ALL = [A, B, C]
NODE_1, NODE_2 = {"nodeName": "node-1"}, {"nodeName": "node-2"}
LOCAL = to(nodeName="{{.nodeName}}")
CHAIN = [match(to(app="gw"), when={"app": "fw"}), match(to(app="fw"))]
SCALE = [match(LOCAL, fall=True), match(to(app="fw"))]

ROWS: list[tuple[str, Sequence[Match], Mapping[str, str], Sequence[NetworkServiceEndpoint], str]] = [
    ("no matches: all", [], {}, ALL, "a b c"),
    ("no matches, labels do not count", [], {"app": "x"}, ALL, "a b c"),
    ("no matches, no endpoints", [], {}, [], ""),
    ("one route", [match(to(app="fw"))], {}, ALL, "a"),
    ("one route, several endpoints", [match(to(app="gw"))], {}, ALL, "b c"),
    ("a route that needs two labels", [match(to(app="gw", nodeName="node-2"))], {}, ALL, "c"),
    ("an empty selector takes all", [match(to())], {}, ALL, "a b c"),
    ("an empty selector takes one without labels", [match(to())], {}, [BARE], "bare"),
    ("one without labels has no value", [match(to(app="fw"))], {}, [BARE], ""),
    ("labels of another service do not count", [match(to(app="fw"))], {}, [ELSEWHERE], ""),
    ("no routes: nobody", [match()], {}, ALL, ""),
    ("routes in order", [match(to(app="gw"), to(app="fw"))], {}, ALL, "b c a"),
    ("an endpoint comes once for each route", [match(to(app="gw"), to(nodeName="node-2"))], {}, ALL, "b c c"),
    ("a value that nobody has", [match(to(app="db"))], {}, ALL, ""),
    ("a label that nobody has", [match(to(zone="1"))], {}, ALL, ""),
    ("source fits", [match(to(app="fw"), when={"app": "x"})], {"app": "x"}, ALL, "a"),
    ("source fits, with more labels", [match(to(app="fw"), when={"app": "x"})], {"app": "x", "v": "1"}, ALL, "a"),
    ("source does not fit: nobody", [match(to(app="fw"), when={"app": "x"})], {"app": "y"}, ALL, ""),
    ("source misses the label", [match(to(app="fw"), when={"app": "x"})], {}, ALL, ""),
    ("source needs both", [match(to(app="fw"), when={"a": "1", "b": "2"})], {"a": "1"}, ALL, ""),
    ("the chain's first link", CHAIN, {}, ALL, "a"),
    ("the chain's next link", CHAIN, {"app": "fw"}, ALL, "b c"),
    ("the chain, with another label: its start", CHAIN, {"app": "gw"}, ALL, "a"),
    ("the first that applies decides", [match(to(app="fw")), match(to(app="gw"))], {}, ALL, "a"),
    ("one that applies to nobody else ends it", [match(to(app="db")), match(to(app="gw"))], {}, ALL, ""),
    ("fallthrough goes on when nobody is there", [match(to(app="db"), fall=True), match(to(app="gw"))], {}, ALL, "b c"),
    ("fallthrough ends when somebody is there", [match(to(app="fw"), fall=True), match(to(app="gw"))], {}, ALL, "a"),
    ("fallthrough without another match: nobody", [match(to(app="db"), fall=True)], {}, ALL, ""),
    ("fallthrough twice", [match(to(app="1"), fall=True), match(to(app="2"), fall=True)], {}, ALL, ""),
    ("fallthrough skips those not for the client", [match(to(app="db"), fall=True), match(to(), when={"q": "1"}),
     match(to(app="fw"))], {}, ALL, "a"),
    ("the client's node", [match(LOCAL)], NODE_2, ALL, "c"),
    ("no endpoint on the client's node", [match(LOCAL)], NODE_1, ALL, ""),
    ("a client without node", [match(LOCAL)], {}, ALL, ""),
    ("scale from zero: on the node", SCALE, NODE_2, ALL, "c"),
    ("scale from zero: the supplier", SCALE, NODE_1, ALL, "a"),
    ("scale from zero without fallthrough ends", [match(LOCAL), match(to(app="fw"))], NODE_1, ALL, ""),
    ("by index", [match(to(nodeName='{{ index . "nodeName" }}'))], NODE_2, ALL, "c"),
    ("by index without the label: those without", [match(to(zone='{{ index . "zone" }}'))], NODE_2, ALL, "a b c"),
    ("a name with text around", [match(to(nodeName="node-{{.n}}"))], {"n": "2"}, ALL, "c"),
    ("a bad template is literal", [match(to(nodeName="{{.n"))], {"n": "2"}, [nse("t", nodeName="{{.n"), C], "t"),
    ("a template that stands literally in a label", [match(to(app="{{.x}}"))], {}, [nse("t", app="{{.x}}")], "t"),
    ("a missing name is <no value>", [match(to(app="{{.x}}"))], {}, [nse("t", app="<no value>"), A], "t"),
    ("a source by template", [match(to(app="fw"), when={"a": "{{.b}}"})], {"a": "1", "b": "1"}, ALL, "a"),
    ("a source by template that differs", [match(to(app="fw"), when={"a": "{{.b}}"})], {"a": "1", "b": "2"}, ALL, ""),
    ("metadata alone: all", [match(metadata=True)], {}, ALL, "a b c"),
    ("metadata alone for this client", [match(metadata=True, when={"x": "1"})], {"x": "1"}, ALL, "a b c"),
    ("metadata alone for others", [match(metadata=True, when={"x": "1"})], {}, ALL, ""),
    ("metadata with routes: the routes", [match(to(app="fw"), metadata=True)], {}, ALL, "a"),
    ("metadata with routes to nobody", [match(to(app="db"), metadata=True)], {}, ALL, ""),
    ("metadata with fallthrough goes on", [match(metadata=True, fall=True), match(to(app="fw"))], {}, ALL, "a"),
    ("metadata after one that is not for the client", [match(to(app="fw"), when={"q": "1"}), match(metadata=True)],
     {}, ALL, "a b c"),
    ("an empty label value needs the label's count", [match(to(app=""))], {}, [BARE], ""),
    ("an empty label value is that of a missing label", [match(to(zone=""))], {}, ALL, "a b c"),
    ("selector longer than the labels", [match(to(app="fw", zone=""))], {}, ALL, "c"[:0]),
    ("interdomain names are names", [match(to(app="fw"))], {}, [nse("d@far", app="fw")], "d@far"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("matches", "labels", "endpoints", "names"), [row[1:] for row in ROWS], ids=[r[0] for r in ROWS]
)
def test_a_match(
    matches: Sequence[Match], labels: Mapping[str, str], endpoints: Sequence[NetworkServiceEndpoint], names: str
) -> None:
    service = NetworkService(name=SERVICE, matches=matches)
    before = [each.SerializeToString(deterministic=True) for each in endpoints]
    assert " ".join(each.name for each in match_endpoints(labels, service, endpoints)) == names
    assert [each.SerializeToString(deterministic=True) for each in endpoints] == before, "looking changes nothing"


@pytest.mark.parametrize(
    ("selector", "labels", "client", "fits"),
    [
        ({}, {}, {}, True),
        ({}, {"a": "1"}, {}, True),
        ({"a": "1"}, {"a": "1"}, {}, True),
        ({"a": "1"}, {"a": "2"}, {}, False),
        ({"a": "1"}, {}, {}, False),
        ({"a": ""}, {}, {}, False),
        ({"a": ""}, {"b": "1"}, {}, True),
        ({"a": "1", "b": "2"}, {"a": "1"}, {}, False),
        ({"a": "{{.x}}"}, {"a": "7"}, {"x": "7"}, True),
        ({"a": "{{.x}}"}, {"a": "7"}, {"x": "8"}, False),
        ({"a": "{{.x}}"}, {"a": "{{.x}}"}, {"x": "8"}, True),
        ({"A": "1"}, {"a": "1"}, {}, False),
    ],
)
def test_a_subset(selector: dict[str, str], labels: dict[str, str], client: dict[str, str], fits: bool) -> None:
    assert is_subset(selector, labels, client) is fits


@pytest.mark.parametrize(("expires", "alive"), [(None, True), (99.0, False), (100.0, False), (100.5, True)])
def test_an_expired_endpoint_serves_nobody(expires: float | None, alive: bool) -> None:
    endpoint = nse("a")
    if expires is not None:
        endpoint.expiration_time.CopyFrom(timestamp(expires))
    assert unexpired([endpoint], 100.0) == ([endpoint] if alive else [])


def test_candidates_take_turns_one_step_for_each_that_is_tried() -> None:
    turns = RoundRobin()
    assert [next(turns.in_turn("web", "abc")) for _ in range(4)] == ["a", "b", "c", "a"]
    assert list(turns.in_turn("web", "abc")) == ["b", "c", "a"], "each once, beginning behind the last"
    assert next(turns.in_turn("web", "abc")) == "b"
    assert next(turns.in_turn("other", "abc")) == "a", "each service has its own turn"


def test_turns_go_on_when_there_are_more_or_fewer_candidates() -> None:
    turns = RoundRobin()
    for _ in range(5):
        next(turns.in_turn("web", "abcdef"))
    assert list(turns.in_turn("web", "ab")) == ["b", "a"]
    assert list(turns.in_turn("web", "")) == []


def test_turns_are_remembered_for_a_bounded_number_of_services() -> None:
    turns = RoundRobin()
    for number in range(LIMIT + 10):
        next(turns.in_turn(f"service-{number}", "ab"))
    assert len(turns._turns) == LIMIT
    assert next(turns.in_turn("service-0", "ab")) == "a"
