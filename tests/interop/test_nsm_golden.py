"""Messages of runs with NSM's own programs, kept as files: what they agreed on holds without them too.

A file has, for one pair of ends: the `client`'s and the `manager`'s Request with its answer, the
one that reached the `endpoint`, the `close`, and the forwarder's `registration`. In place of each
token there is what it says.
"""

import json
from contextlib import asynccontextmanager
from pathlib import Path

import jwt
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from forwarder.api.connection_pb2 import Connection
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.api.path import copy
from forwarder.cli.forwarder import endpoint_of
from forwarder.config import ForwarderSettings
from forwarder.rpc import Call
from forwarder.service import ConfiguredNextHops, Forwarder
from tests.support.clock import TurnedClock
from tests.support.fake_mechanism import World
from tests.support.fake_next_hop import FakeNextHop
from tests.support.nsm_go import check_path, names

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.json"))
PATH = ["nsc", "manager", "forwarder", "nse"]
NEXT = "unix:///nse.sock"


@pytest.fixture(params=GOLDEN, ids=lambda path: path.stem)
def golden(request):
    """One recorded run, and which ends it joined."""
    return request.param.stem, json.loads(request.param.read_text())


def test_every_pair_of_ends_is_recorded():
    assert [path.stem for path in GOLDEN] == ["kernel2kernel", "kernel2memif", "memif2kernel", "memif2memif"]


def test_every_answer_has_the_whole_path_and_chained_tokens(golden):
    ends, run = golden
    for who in ("client", "manager", "endpoint"):
        check_path(run[who][1], PATH)
    assert [run[who][1]["path"].get("index", 0) for who in ("client", "manager", "endpoint")] == [0, 1, 2]
    near, far = ends.upper().split("2")
    assert [run[who][1]["mechanism"]["type"] for who in ("client", "manager", "endpoint")] == [near, near, far]
    assert names(run["close"]) == PATH


def test_a_namespace_is_named_by_its_inode_on_every_wire(golden):
    _ends, run = golden
    given = run["client"][0]["mechanism_preferences"][0]["parameters"]["inodeURL"]
    assert given.startswith("inode://")
    assert run["manager"][0]["mechanism_preferences"][0]["parameters"]["inodeURL"] == given
    assert run["client"][1]["mechanism"]["parameters"]["inodeURL"] == given
    assert run["endpoint"][1]["mechanism"]["parameters"]["inodeURL"].startswith("inode://")


def test_the_registration_is_the_one_that_was_accepted(golden):
    _ends, run = golden
    sent, got = run["registration"]
    ours = endpoint_of(ForwarderSettings(name="forwarder"), sent["url"])
    assert MessageToDict(ours, preserving_proto_field_name=True) == sent
    assert got["path_ids"] == [f"spiffe://vwire.test/{name}" for name in ("forwarder", "manager", "registry")]
    assert run["registration_path"] == [{"Index": 0, "PathSegments": None}]


def with_tokens(value):
    """Puts a token that says the same, signed by nobody, wherever the record tells what one said."""
    if isinstance(value, dict):
        return {
            key: jwt.encode(inner["claims"], "", algorithm="none") if key == "token" else with_tokens(inner)
            for key, inner in value.items()
        }
    return [with_tokens(inner) for inner in value] if isinstance(value, list) else value


def masked(message, forwarder_id):
    """A message as JSON, without what differs from run to run."""
    value = MessageToDict(message, preserving_proto_field_name=True)
    connection = value.get("connection", value)
    for segment in connection["path"]["path_segments"]:
        for key in ("token", "expires", "metrics"):
            segment.pop(key, None)
    return json.loads(json.dumps(value).replace(forwarder_id, "ours"))


class RecordedEndpoint(FakeNextHop):
    """Gives the recorded answer, with the id that we have made for ourselves."""

    def __init__(self, answer, recorded_id):
        super().__init__()
        self.answer = answer
        self.recorded_id = recorded_id
        self.own_id = ""

    async def request(self, request, *, timeout_s=None):
        self.requests.append(copy(request))
        self.own_id = request.connection.id
        answer = json.loads(json.dumps(self.answer).replace(self.recorded_id, self.own_id))
        connection = ParseDict(with_tokens(answer), Connection())
        self.monitor_hub.update(connection)
        return connection


@asynccontextmanager
async def forwarder(endpoint, now):
    world = World()
    async with Forwarder(
        name="forwarder",
        mechanisms=world.mechanisms,
        vwires=world,
        next_hops=ConfiguredNextHops(default=NEXT),
        dial=endpoint.dial,
        clock=TurnedClock(now),
        default_payload="ETHERNET",
    ) as served:
        yield served


async def test_the_recorded_request_leads_to_the_recorded_one_and_the_recorded_answer():
    run = json.loads(next(path for path in GOLDEN if path.stem == "kernel2kernel").read_text())
    recorded_id = run["endpoint"][0]["connection"]["id"]
    endpoint = RecordedEndpoint(run["endpoint"][1], recorded_id)
    request = ParseDict(with_tokens(run["manager"][0]), NetworkServiceRequest())
    now = request.connection.path.path_segments[0].expires.ToSeconds() - 600
    async with forwarder(endpoint, now) as served:
        answer = await served.request(request, Call.internal())
    sent = masked(endpoint.requests[0], endpoint.own_id)
    expected = masked(ParseDict(with_tokens(run["endpoint"][0]), NetworkServiceRequest()), recorded_id)
    for each in (sent, expected):  # named by the finder of the endpoint, which had a registry
        each["connection"].pop("network_service_endpoint_name", None)
        each["mechanism_preferences"] = [
            preference for preference in each["mechanism_preferences"] if preference["type"] in ("KERNEL", "MEMIF")
        ]
    assert sent == expected
    assert masked(answer, endpoint.own_id) == masked(
        ParseDict(with_tokens(run["manager"][1]), Connection()), recorded_id
    )
