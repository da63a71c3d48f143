"""Messages on the wire are what the API's field tables say, byte for byte."""

from typing import Any

import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message

from forwarder.api import (
    connection_pb2,
    connectioncontext_pb2,
    ipam_pb2,
    networkservice_pb2,
    registry_pb2,
    workload_pb2,
)
from forwarder.api.path import copy
from tests.unit.api import wire

FILES = (connection_pb2, connectioncontext_pb2, ipam_pb2, networkservice_pb2, registry_pb2, workload_pb2)
OURS = [name for name in wire.MESSAGES if not name.startswith("google.")]
SAMPLES: dict[str, Any] = {
    "string": "x-Ä",
    "uint32": 3_000_000_000,
    "int32": -5,
    "int64": 1_767_323_045,
    "bool": True,
    "bytes": b"\0x",
}


def message_class(name: str) -> type[Message]:
    return message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(name))


def sample(kind: str, depth: int = 0) -> Any:
    """Makes a value of a kind in which every field, down to the leaves, is set."""
    if kind.startswith("repeated "):
        return [sample(kind.removeprefix("repeated "), depth), sample(kind.removeprefix("repeated "), depth)]
    if kind.startswith("map<"):
        of = kind.removeprefix("map<string,").removesuffix(">")
        return {"b": sample(of, depth), "a": sample(of, depth)}
    if kind.startswith("enum "):
        return max(wire.ENUMS[kind.removeprefix("enum ")].values())
    if kind in SAMPLES:
        return SAMPLES[kind]
    return {name: sample(of, depth + 1) for name, _, of in wire.MESSAGES[kind]}


def fill(message: Message, values: dict[str, Any]) -> Message:
    """Sets the fields of a message by name."""
    for name, value in values.items():
        field = getattr(message, name)
        if isinstance(value, dict) and isinstance(field, Message):
            field.SetInParent()
            fill(field, value)
        elif isinstance(value, dict):
            for key, each in value.items():
                if isinstance(each, dict):
                    fill(field[key], each)
                else:
                    field[key] = each
        elif isinstance(value, list):
            for each in value:
                if isinstance(each, dict):
                    fill(field.add(), each)
                else:
                    field.append(each)
        else:
            setattr(message, name, value)
    return message


def test_every_message_is_in_the_tables() -> None:
    defined = {message.full_name for file in FILES for message in file.DESCRIPTOR.message_types_by_name.values()}
    assert defined == set(OURS)


def test_files_register_under_their_bare_names() -> None:
    assert [file.DESCRIPTOR.name for file in FILES] == [
        "connection.proto",
        "connectioncontext.proto",
        "ipam.proto",
        "networkservice.proto",
        "registry.proto",
        "workload.proto",
    ]


@pytest.mark.parametrize("name", OURS)
def test_fields_have_the_names_and_numbers_of_the_table(name: str) -> None:
    fields = message_class(name).DESCRIPTOR.fields
    assert [(field.name, field.number) for field in fields] == [(each[0], each[1]) for each in wire.MESSAGES[name]]


@pytest.mark.parametrize("name", wire.ENUMS)
def test_enums_have_the_values_of_the_table(name: str) -> None:
    values = descriptor_pool.Default().FindEnumTypeByName(name).values
    assert {value.name: value.number for value in values} == wire.ENUMS[name]


def test_methods_have_the_paths_and_types_of_the_table() -> None:
    defined = {
        f"{service.full_name}/{method.name}": (
            method.client_streaming,
            method.input_type.full_name,
            method.server_streaming,
            method.output_type.full_name,
        )
        for file in FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert defined == wire.METHODS


@pytest.mark.parametrize(("name", "field", "kind"), [(name, f, k) for name in OURS for f, _, k in wire.MESSAGES[name]])
def test_each_field_alone_is_encoded_as_the_table_implies(name: str, field: str, kind: str) -> None:
    values = {field: sample(kind)}
    expected = wire.encode(name, values)
    assert fill(message_class(name)(), values).SerializeToString(deterministic=True) == expected
    assert message_class(name).FromString(expected).SerializeToString(deterministic=True) == expected


@pytest.mark.parametrize("name", OURS)
def test_a_full_message_is_encoded_as_the_tables_imply(name: str) -> None:
    values = sample(name)
    expected = wire.encode(name, values)
    message = fill(message_class(name)(), values)
    assert message.SerializeToString(deterministic=True) == expected
    assert message_class(name).FromString(expected) == message


@pytest.mark.parametrize("name", OURS)
def test_unset_fields_take_no_bytes(name: str) -> None:
    assert message_class(name)().SerializeToString() == b""


def test_a_request_in_bytes_written_out_by_hand() -> None:
    request = networkservice_pb2.NetworkServiceRequest()
    request.connection.id = "nsc-0"
    request.connection.network_service = "icmp"
    request.mechanism_preferences.add(cls="LOCAL", type="KERNEL").parameters["name"] = "nsm-1"
    connection = "0a056e73632d30120469636d70"
    parameter = "0a046e616d6512056e736d2d31"
    mechanism = "0a054c4f43414c12064b45524e454c1a0d" + parameter
    assert request.SerializeToString().hex() == "0a0d" + connection + "121e" + mechanism


@pytest.mark.parametrize("name", OURS)
def test_unknown_fields_survive_parse_copy_and_serialise(name: str) -> None:
    unknown = wire.delimited(500, b"from a later API") + wire.varint(501 << 3) + wire.varint(7)
    data = wire.encode(name, sample(name)) + unknown
    parsed = message_class(name).FromString(data)
    assert copy(parsed).SerializeToString(deterministic=True) == data


def test_unknown_fields_survive_inside_nested_messages_while_known_ones_change() -> None:
    unknown = wire.delimited(77, b"later")
    segment = wire.encode("connection.PathSegment", {"name": "a", "id": "1"}) + unknown
    mechanism = wire.encode("connection.Mechanism", {"type": "KERNEL"}) + unknown
    connection = copy(
        connection_pb2.Connection.FromString(
            wire.delimited(3, mechanism) + wire.delimited(6, wire.delimited(2, segment)) + unknown
        )
    )
    connection.mechanism.parameters["name"] = "nsm-1"
    connection.path.path_segments[0].id = "2"
    assert connection.SerializeToString().count(unknown) == 3


def test_enum_values_of_a_later_api_survive() -> None:
    data = wire.varint(9 << 3) + wire.varint(42)
    connection = connection_pb2.Connection.FromString(data)
    assert connection.state == 42
    assert copy(connection).SerializeToString() == data
