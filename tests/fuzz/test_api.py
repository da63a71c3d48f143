"""Whatever arrives, the API's parsers return or refuse; and what they accept they write back the same."""

import asyncio
import string
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_network
from typing import TypeVar

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from forwarder.api import context, labels, mechanisms, monitor, path
from forwarder.api.connection_pb2 import Connection, Mechanism, MonitorScopeSelector
from forwarder.api.connectioncontext_pb2 import IPContext, Route
from forwarder.api.context import Side
from forwarder.api.mechanisms import VIEWS, Flag, Number
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.api.nsurl import NetworkServiceURL
from forwarder.api.x509 import Peer
from forwarder.errors import InvalidRequest
from forwarder.rpc import PassThrough, descriptors
from forwarder.rpc.address import Address
from forwarder.security import Token, TokenMetadata, UnsignedTokens, claims, received, rfc3339
from tests.unit.api import wire
from tests.unit.api.test_wire import sample

BUDGET = settings(max_examples=400, deadline=None)
TEXT = st.text(max_size=60)
NAMES = st.text(string.ascii_letters + string.digits + "-._~ÄÖ", min_size=1, max_size=20)
URLISH = st.text("kernelmif:/@?#&=%[]. \t0aZä+-", max_size=40)


REFUSED = object()
T = TypeVar("T")


def outcome(parse: Callable[[str], T], text: str) -> T | object:
    """Returns what `parse` makes of `text`, or REFUSED; nothing but an error that quotes the text is a refusal."""
    try:
        return parse(text)
    except InvalidRequest as error:
        message = str(error)
    assert repr(text) in message
    return REFUSED


# --- URLs -----------------------------------------------------------------------------------


@BUDGET
@given(TEXT | URLISH | URLISH.map("kernel://".__add__))
@example("kernel://[")
@example("kernel://a@b@c/d")
@example("kernel://a%40b@c")
@example("kernel://℀/x")
@example("kernel://s?" + "&" * 3000)
def test_a_url_is_parsed_or_refused_and_writes_back_to_itself(text: str) -> None:
    url = outcome(NetworkServiceURL.parse, text)
    if not isinstance(url, NetworkServiceURL):
        return
    assert NetworkServiceURL.parse(str(url)) == url
    assert url.request("nsc-0").connection.network_service == url.network_service
    assert url.preference().type == url.mechanism == url.mechanism.upper()


@BUDGET
@given(
    st.sampled_from(["kernel", "MEMIF", "vfio", "noop"]),
    NAMES,
    st.none() | NAMES,
    st.none() | st.text(max_size=20).filter(lambda text: "/" not in text),
    st.dictionaries(st.text(max_size=10), st.text(max_size=20), max_size=4),
)
def test_a_url_of_any_parts_reads_back(
    mechanism: str, name: str, domain: str | None, interface: str | None, given_labels: dict[str, str]
) -> None:
    service = name if domain is None else f"{name}@{domain}"
    url = NetworkServiceURL(mechanism=mechanism, network_service=service, interface=interface, labels=given_labels)
    assert NetworkServiceURL.parse(str(url)) == url


@BUDGET
@given(TEXT | URLISH | st.from_regex(r"(unix|tcp|inode)://[^\s]{0,30}", fullmatch=True))
def test_an_address_is_parsed_or_refused_and_writes_back_to_itself(text: str) -> None:
    address = outcome(Address.parse, text)
    if address is REFUSED:
        return
    assert Address.parse(str(address)) == address


@BUDGET
@given(TEXT | URLISH.map("file://".__add__) | URLISH.map("inode://".__add__))
def test_an_inode_url_is_passed_or_refused(text: str) -> None:
    files = PassThrough()
    assert outcome(lambda url: asyncio.run(files.received(url)), text) in (text, REFUSED)
    sent = outcome(files.sent, text)
    assert sent in (text, REFUSED) or text.startswith("file://")


# --- Times and tokens -----------------------------------------------------------------------

MOMENTS = st.integers(rfc3339.EARLIEST, rfc3339.LATEST)


@BUDGET
@given(MOMENTS)
@example(rfc3339.EARLIEST)
@example(rfc3339.LATEST)
@example(-1)
def test_every_time_reads_back(moment: int) -> None:
    assert rfc3339.parse(rfc3339.text(moment)) == moment


@BUDGET
@given(
    MOMENTS.filter(lambda moment: abs(moment) < rfc3339.LATEST - 10**14),
    st.integers(0, 23),
    st.integers(0, 59),
    st.sampled_from("+-"),
)
def test_an_offset_shifts_a_time_by_itself(moment: int, hours: int, minutes: int, sign: str) -> None:
    text = rfc3339.text(moment).removesuffix("Z") + f"{sign}{hours:02}:{minutes:02}"
    shift = (hours * 3600 + minutes * 60) * 10**9
    try:
        assert rfc3339.parse(text) == moment + (-shift if sign == "+" else shift)
    except InvalidRequest:
        assert moment - shift < rfc3339.EARLIEST


@BUDGET
@given(
    TEXT
    | st.text("0123456789-:TZ.+", max_size=40)
    | st.from_regex(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
)
def test_a_time_is_parsed_or_refused(text: str) -> None:
    moment = outcome(rfc3339.parse, text)
    if not isinstance(moment, int):
        return
    assert rfc3339.EARLIEST <= moment <= rfc3339.LATEST
    assert rfc3339.parse(rfc3339.text(moment)) == moment


@BUDGET
@given(
    TEXT
    | st.text(string.ascii_letters + "=-_.", max_size=80)
    | st.lists(st.binary(max_size=30), min_size=3, max_size=3).map(lambda parts: ".".join(each.hex() for each in parts))
)
def test_a_token_is_read_or_refused(text: str) -> None:
    with suppress(InvalidRequest):
        claims(text)


@BUDGET
@given(TEXT, st.none() | TEXT, st.floats(0, 4e9), st.floats(0, 1e6))
def test_a_token_of_ours_reads_back(identity: str, audience: str | None, now: float, lifetime_s: float) -> None:
    source = UnsignedTokens(identity=identity, lifetime_s=lifetime_s, now=lambda: now)
    peer = None if audience is None else Peer(identity=audience, certificate=b"")
    token = received(TokenMetadata(source).metadata(peer))
    assert isinstance(token, Token)
    read = claims(token.text)
    assert read.subject == identity
    assert read.audience == (() if audience is None else (audience,))
    assert read.expires == token.expires // 10**9


# --- Context --------------------------------------------------------------------------------

CIDRS = st.ip_addresses().flatmap(
    lambda address: st.integers(0, address.max_prefixlen).map(lambda length: f"{address}/{length}")
)
CIDRISH = CIDRS | st.text("0123456789abcdef:./%-", max_size=30) | TEXT


@BUDGET
@given(
    TEXT
    | st.text("0123456789-", max_size=12)
    | st.tuples(st.integers(0, 70000), st.integers(0, 70000)).map(lambda pair: f"{pair[0]}-{pair[1]}")
)
def test_a_port_range_is_parsed_or_refused(text: str) -> None:
    parsed = outcome(context.port_range, text)
    if parsed is REFUSED:
        return
    assert (parsed is None) == (text == "")
    if isinstance(parsed, tuple):
        assert 0 <= parsed[0] <= parsed[1] <= 0xFFFF
        assert context.port_range(f"{parsed[0]}-{parsed[1]}") == parsed


@BUDGET
@given(CIDRISH)
def test_a_cidr_keeps_its_address_and_length(text: str) -> None:
    parsed = context.interface(text)
    if parsed is not None:
        assert context.interface(str(parsed)) == parsed
        assert parsed.ip in parsed.network


@BUDGET
@given(
    st.lists(CIDRISH, max_size=4),
    st.lists(CIDRISH, max_size=4),
    st.lists(st.tuples(CIDRISH, st.just("") | st.ip_addresses().map(str) | TEXT), max_size=4),
)
def test_routes_of_any_context(src: list[str], dst: list[str], given_routes: list[tuple[str, str]]) -> None:
    routes = [Route(prefix=prefix, nextHop=next_hop) for prefix, next_hop in given_routes]
    ours = IPContext(src_ip_addrs=src, dst_ip_addrs=dst, src_routes=routes, dst_routes=routes)
    before = path.copy(ours)
    for side in Side:
        own = [each.network for each in context.addresses(ours, side)]
        for network in context.link_routes(ours, side):
            assert any(network == each.network for each in context.addresses(ours, side.other))
            assert ip_network(str(network)) == network
        gateways = {str(each.ip): each.version for each in context.addresses(ours, side.other)}
        made = context.routes(ours, side)
        assert [each.prefix for each in made] == [each.prefix for each in routes]
        for old, new in zip(routes, made, strict=True):
            prefix = context.interface(old.prefix)
            if new != old:
                assert prefix is not None
                assert gateways[new.nextHop] == prefix.version
        assert len(own) <= 4
    assert ours == before


# --- Parameters -----------------------------------------------------------------------------


@BUDGET
@given(
    st.sampled_from(sorted(VIEWS)) | TEXT,
    st.dictionaries(
        st.sampled_from(sorted({field.key for view in VIEWS.values() for field in view.fields().values()})) | TEXT,
        st.text("0123456789-+ truefalsTF", max_size=25) | TEXT,
        max_size=8,
    ),
)
def test_views_read_any_parameters_and_write_back_what_they_read(type_: str, parameters: dict[str, str]) -> None:
    mechanism = Mechanism(type=type_, parameters=parameters)
    view = mechanisms.view(mechanism)
    for name, field in view.fields().items():
        value = getattr(view, name)
        assert isinstance(value, bool if isinstance(field, Flag) else int if isinstance(field, Number) else str)
        assert dict(mechanism.parameters) == parameters, "reading changes nothing"
        scratch = mechanisms.view(path.copy(mechanism))
        setattr(scratch, name, value)
        assert getattr(scratch, name) == value


# --- Messages -------------------------------------------------------------------------------

SEED = wire.encode("networkservice.NetworkServiceRequest", sample("networkservice.NetworkServiceRequest"))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draws a well-formed request with bytes flipped, cut or put in."""
    data = bytearray(SEED)
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data) - 1))
        data[at] = draw(st.integers(0, 255))
    start = draw(st.integers(0, len(data)))
    data[start:start] = draw(st.binary(max_size=8))
    return bytes(data[: draw(st.integers(0, len(data)))]) if draw(st.booleans()) else bytes(data)


@settings(BUDGET, max_examples=800)
@given(st.binary(max_size=200) | damaged())
@example(SEED)
async def test_any_bytes_as_a_request_go_through_every_view(data: bytes) -> None:
    try:
        request = NetworkServiceRequest.FromString(data)
    except DecodeError:
        return
    unchanged = request.SerializeToString(deterministic=True)
    assert NetworkServiceRequest.FromString(unchanged).SerializeToString(deterministic=True) == unchanged
    connection = request.connection
    for mechanism in (connection.mechanism, *request.mechanism_preferences):
        view = mechanisms.view(mechanism)
        for name in view.fields():
            getattr(view, name)
    path.segment(connection.path)
    path.previous(connection.path)
    path.following(connection.path)
    path.ids(connection.path)
    path.names(connection.path)
    path.origin_id(connection)
    for side in Side:
        context.addresses(connection.context.ip_context, side)
        context.link_routes(connection.context.ip_context, side)
        context.routes(connection.context.ip_context, side)
    for policy in connection.context.ip_context.policies:
        for text in (policy.src_port, policy.dst_port):
            outcome(context.port_range, text)
    assert monitor.matches(MonitorScopeSelector(), connection)
    whole = MonitorScopeSelector(path_segments=connection.path.path_segments)
    assert monitor.matches(whole, connection)
    assert monitor.select(whole, {"x": connection}) == {"x": connection}
    labels.add_where_from(path.copy(connection).labels, {"NODE_NAME": "n"})
    with suppress(InvalidRequest):
        await descriptors.receive(PassThrough(), path.copy(request).mechanism_preferences)
    assert path.copy(request).SerializeToString(deterministic=True) == unchanged


@BUDGET
@given(st.data())
def test_a_selector_taken_from_a_path_matches_it(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=6))
    connection = Connection(path={"path_segments": [{"name": name, "id": name} for name in names]})
    start = data.draw(st.integers(0, len(names) - 1))
    end = data.draw(st.integers(start + 1, len(names)))
    selector = MonitorScopeSelector(path_segments=connection.path.path_segments[start:end])
    for segment in selector.path_segments:
        if data.draw(st.booleans()):
            segment.ClearField(data.draw(st.sampled_from(["name", "id"])))
    assert monitor.matches(selector, connection)


def test_the_seed_is_a_full_request() -> None:
    with pytest.raises(DecodeError):
        NetworkServiceRequest.FromString(SEED[:-1])
    assert NetworkServiceRequest.FromString(SEED).connection.context.MTU == 3_000_000_000
