"""The registry API's path is read, and nothing else is taken for one."""

import pytest

from forwarder.errors import RemoteProtocolError
from forwarder.mesh.registration import NEW_PATH
from forwarder.mesh.registry_path import RegistryPath, parse


@pytest.mark.parametrize(
    ("text", "index", "tokens"),
    [
        (NEW_PATH, 0, ()),
        ("{}", 0, ()),
        ('{"Index":1,"PathSegments":[{"token":"a"},{"token":"b"}]}', 1, ("a", "b")),
        ('{"Index":0,"PathSegments":[{}]}', 0, ("",)),
    ],
)
def test_a_path_is_read(text: str, index: int, tokens: tuple[str, ...]) -> None:
    assert parse(text) == RegistryPath(index=index, tokens=tokens)


@pytest.mark.parametrize(
    "text",
    ["", "x", "[]", "1", '{"Index":-1}', '{"Index":"1"}', '{"Index":true}', '{"PathSegments":1}',
     '{"PathSegments":["t"]}', '{"PathSegments":[{"token":1}]}', "[" * 100000],
)  # fmt: skip
def test_what_is_no_path_is_refused_without_telling_what_it_holds(text: str) -> None:
    with pytest.raises(RemoteProtocolError, match="the registry answered with a path"):
        parse(text)
