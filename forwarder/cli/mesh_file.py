"""Reads the YAML file that describes a local mesh.

```yaml
name: demo                          # names of namespaces begin with vwire-demo-
pods:
  client: {}
  server:
    run: [python3 -m http.server]   # started before anything connects, runs as long as the mesh
endpoints:
  - name: responder
    pod: server
    mechanism: kernel               # kernel or memif
    services: [web]
    payload: ETHERNET               # or IP
    cidr_prefix: 172.16.1.0/24      # groups, as in NSM_CIDR_PREFIX
clients:
  - name: client
    pod: client
    connect: [kernel://web/nsm-1]
traffic:                            # started after the checks, runs as long as the mesh
  - vwire: client-0
    run: ping -i 0.5 {dst}
checks:                             # run one after another when all is connected; one that fails fails the mesh
  - name: unmodified ping
    vwire: client-0
    run: ping -c 3 {dst}
```

In commands, {src} and {dst} are the client's and the endpoint's first address on the vWire,
{src6} and {dst6} the first IPv6 ones, {socket} the memif socket, {netns} the pod's namespace.
Every error says the line, the key and what was expected.
"""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final, Literal, NoReturn, TypeVar

import yaml

from forwarder.api.nsurl import NetworkServiceURL
from forwarder.config import parse_groups
from forwarder.errors import ConfigError, InvalidRequest

T = TypeVar("T")

NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,30}[A-Za-z0-9])?", re.ASCII)
PLACEHOLDERS: Final = frozenset({"src", "dst", "src6", "dst6", "socket", "netns"})
_PLACEHOLDER: Final = re.compile(r"(?<![%$])\{([^{}]*)\}")
"""Not `%{name}` and `${name}`, which other programs use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A namespace and the programs that run in it."""

    name: str
    run: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointPlan:
    """An endpoint in a pod."""

    name: str
    pod: str
    mechanism: Literal["kernel", "memif"] = "kernel"
    services: tuple[str, ...] = ()
    payload: Literal["ETHERNET", "IP"] = "ETHERNET"
    cidr_prefix: tuple[tuple[str, ...], ...] = (("169.254.0.0/16",),)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientPlan:
    """A client in a pod; its i-th vWire is called <name>-<i>."""

    name: str
    pod: str
    connect: tuple[NetworkServiceURL, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A program that runs in the pod of a vWire's client."""

    name: str
    vwire: str
    run: tuple[str, ...]
    optional: bool = False
    """Left out when the program is not installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshPlan:
    """A whole local mesh."""

    name: str
    pods: tuple[Pod, ...]
    endpoints: tuple[EndpointPlan, ...]
    clients: tuple[ClientPlan, ...]
    traffic: tuple[Command, ...] = ()
    checks: tuple[Command, ...] = ()


def example() -> MeshPlan:
    """Returns the mesh that `vwire up` makes without a file."""
    source = resources.files("forwarder.cli").joinpath("example.yaml")
    return parse(source.read_text(encoding="utf-8"), "the built-in example")


def load(path: Path) -> MeshPlan:
    """Reads a file. Raises ConfigError when it cannot be read or is not a mesh."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"mesh file {path} cannot be read", detail=error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"mesh file {path} is not UTF-8 text", detail=str(error)) from error
    return parse(text, str(path))


def parse(text: str, source: str) -> MeshPlan:
    """Reads a mesh from YAML; `source` names it in errors.

    Raises ConfigError with the line and the key of the first thing that is wrong.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{source}:{line}: not YAML", detail=error.problem or str(error)) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{source}: not YAML", detail=str(error).splitlines()[0]) from error
    if node is None:
        raise ConfigError(f"{source}: empty", hint="`vwire up` without a file shows an example")
    return _mesh(_Node(node, source, ""))


class _Node:
    """A place in the file: what stands there, and how errors call it."""

    def __init__(self, node: yaml.Node, source: str, key: str, key_node: yaml.Node | None = None) -> None:
        self.node = node
        self.source = source
        self.key = key
        self._key_node = key_node

    def fail(self, problem: str, *, at_key: bool = False) -> NoReturn:
        node = self._key_node if at_key and self._key_node is not None else self.node
        where = f"{self.source}:{node.start_mark.line + 1}: "
        raise ConfigError(where + (f"{self.key}: {problem}" if self.key else problem))

    def fields(self, known: Sequence[str], required: Sequence[str] = ()) -> dict[str, "_Node"]:
        """Returns the entries of a mapping, whose keys must be `known`."""
        entries = self.entries()
        for name, entry in entries.items():
            if name not in known:
                entry.fail(f"unknown key; known here: {', '.join(known)}", at_key=True)
        for name in required:
            if name not in entries:
                self.fail(f"the key {name!r} is missing")
        return entries

    def entries(self) -> dict[str, "_Node"]:
        """Returns the entries of a mapping with any keys."""
        if isinstance(self.node, yaml.ScalarNode) and self.node.tag == "tag:yaml.org,2002:null":
            return {}
        if not isinstance(self.node, yaml.MappingNode):
            self.fail(f"a mapping is expected, not {_kind(self.node)}")
        entries: dict[str, _Node] = {}
        for key, value in self.node.value:
            if not isinstance(key, yaml.ScalarNode):
                _Node(key, self.source, self.key).fail("a key must be text")
            name = str(key.value)
            path = f"{self.key}.{name}" if self.key else name
            if name in entries:
                _Node(key, self.source, path).fail("given twice")
            entries[name] = _Node(value, self.source, path, key)
        return entries

    def items(self) -> list["_Node"]:
        """Returns the items of a list; a single text is a list of one."""
        if isinstance(self.node, yaml.ScalarNode):
            return [] if self.node.tag == "tag:yaml.org,2002:null" else [self]
        if not isinstance(self.node, yaml.SequenceNode):
            self.fail(f"a list is expected, not {_kind(self.node)}")
        return [_Node(item, self.source, f"{self.key}[{i}]") for i, item in enumerate(self.node.value)]

    def text(self) -> str:
        if not isinstance(self.node, yaml.ScalarNode) or self.node.tag == "tag:yaml.org,2002:null":
            self.fail(f"text is expected, not {_kind(self.node)}")
        if not self.node.value:
            self.fail("must not be empty")
        return str(self.node.value)

    def name(self) -> str:
        text = self.text()
        if not NAME.fullmatch(text):
            self.fail(f"{text!r} is not a name of at most 32 letters, digits, '-', '_' and '.'")
        return text

    def one_of(self, *allowed: T) -> T:
        text = self.text()
        found = next((value for value in allowed if text == value), None)
        if found is None:
            self.fail(f"{text!r} is not one of {', '.join(map(str, allowed))}")
        return found

    def truth(self) -> bool:
        return self.one_of("true", "false") == "true"

    def command(self, placeholders: frozenset[str] = frozenset()) -> tuple[str, ...]:
        try:
            words = tuple(shlex.split(self.text()))
        except ValueError as error:
            self.fail(f"not a command line: {error}")
        if not words:
            self.fail("must not be empty")
        for word in words:
            for found in _PLACEHOLDER.findall(word):
                if found not in placeholders:
                    known = ", ".join(f"{{{name}}}" for name in sorted(placeholders)) or "none"
                    self.fail(f"unknown placeholder {{{found}}}; known here: {known}")
        return words

    def converted(self, convert: Callable[[str], T]) -> T:
        try:
            return convert(self.text())
        except InvalidRequest as error:
            self.fail(str(error))
        except ValueError as error:
            self.fail(str(error))


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return "nothing" if node.tag == "tag:yaml.org,2002:null" else f"{node.value!r}"


def _mesh(top: _Node) -> MeshPlan:
    fields = top.fields(("name", "pods", "endpoints", "clients", "traffic", "checks"), ("pods", "endpoints", "clients"))
    pods = {name: _pod(name, entry) for name, entry in fields["pods"].entries().items()}
    if not pods:
        fields["pods"].fail("there must be at least one pod")
    endpoints = _distinct(fields["endpoints"], lambda entry: _endpoint(entry, pods))
    clients = _distinct(fields["clients"], lambda entry: _client(entry, pods))
    served: set[str] = set()
    for entry, endpoint in zip(fields["endpoints"].items(), endpoints, strict=True):
        if twice := served.intersection(endpoint.services):
            entry.fail(f"the service {min(twice)!r} has an endpoint already")
        served.update(endpoint.services)
    for entry, client in zip(fields["clients"].items(), clients, strict=True):
        for url in client.connect:
            if url.network_service not in served:
                entry.fail(f"no endpoint serves {url.network_service!r}; served: {', '.join(sorted(served))}")
    vwires = [f"{client.name}-{i}" for client in clients for i in range(len(client.connect))]
    if len(set(vwires)) != len(vwires):
        fields["clients"].fail("two vWires would get the same name; choose other names for the clients")
    commands = {
        key: tuple(_command(entry, vwires) for entry in fields[key].items()) if key in fields else ()
        for key in ("traffic", "checks")
    }
    return MeshPlan(
        name=fields["name"].name() if "name" in fields else "mesh",
        pods=tuple(pods.values()),
        endpoints=endpoints,
        clients=clients,
        traffic=commands["traffic"],
        checks=commands["checks"],
    )


Named = TypeVar("Named", EndpointPlan, ClientPlan)


def _distinct(node: _Node, make: Callable[[_Node], Named]) -> tuple[Named, ...]:
    made: dict[str, Named] = {}
    for entry in node.items():
        each = make(entry)
        if each.name in made:
            entry.fail(f"the name {each.name!r} is taken")
        made[each.name] = each
    return tuple(made.values())


def _pod(name: str, node: _Node) -> Pod:
    if not NAME.fullmatch(name):
        node.fail(f"{name!r} is not a name of at most 32 letters, digits, '-', '_' and '.'", at_key=True)
    if name == NODE:
        node.fail(f"{NODE!r} is the name of the forwarder's own namespace", at_key=True)
    fields = node.fields(("run",))
    run = tuple(entry.command() for entry in fields["run"].items()) if "run" in fields else ()
    return Pod(name=name, run=run)


NODE: Final = "node"
"""The namespace in which the forwarder itself lives."""


def _pod_of(node: _Node, pods: Mapping[str, Pod]) -> str:
    name = node.text()
    if name not in pods:
        node.fail(f"there is no pod {name!r}; there are: {', '.join(pods)}")
    return name


def _endpoint(node: _Node, pods: Mapping[str, Pod]) -> EndpointPlan:
    known = ("name", "pod", "mechanism", "services", "payload", "cidr_prefix")
    fields = node.fields(known, ("name", "pod", "services"))
    services = tuple(entry.text() for entry in fields["services"].items())
    if not services:
        fields["services"].fail("there must be at least one service")
    default = EndpointPlan(name="", pod="")
    return EndpointPlan(
        name=fields["name"].name(),
        pod=_pod_of(fields["pod"], pods),
        mechanism=fields["mechanism"].one_of("kernel", "memif") if "mechanism" in fields else default.mechanism,
        services=services,
        payload=fields["payload"].one_of("ETHERNET", "IP") if "payload" in fields else default.payload,
        cidr_prefix=fields["cidr_prefix"].converted(parse_groups) if "cidr_prefix" in fields else default.cidr_prefix,
    )


def _client(node: _Node, pods: Mapping[str, Pod]) -> ClientPlan:
    fields = node.fields(("name", "pod", "connect"), ("name", "pod", "connect"))
    connect = tuple(entry.converted(NetworkServiceURL.parse) for entry in fields["connect"].items())
    if not connect:
        fields["connect"].fail("there must be at least one URL")
    return ClientPlan(name=fields["name"].name(), pod=_pod_of(fields["pod"], pods), connect=connect)


def _command(node: _Node, vwires: Sequence[str]) -> Command:
    fields = node.fields(("name", "vwire", "run", "optional"), ("vwire", "run"))
    vwire = fields["vwire"].text()
    if vwire not in vwires:
        fields["vwire"].fail(f"there is no vWire {vwire!r}; there are: {', '.join(vwires)}")
    run = fields["run"].command(PLACEHOLDERS)
    return Command(
        name=fields["name"].text() if "name" in fields else run[0],
        vwire=vwire,
        run=run,
        optional=fields["optional"].truth() if "optional" in fields else False,
    )


def filled(words: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Puts values in the place of a command's placeholders.

    Raises ConfigError for one that this vWire has no value for.
    """

    def value(match: re.Match[str]) -> str:
        if not values.get(match[1]):
            raise ConfigError(f"command {shlex.join(words)!r}", detail=f"this vWire has no {{{match[1]}}}")
        return values[match[1]]

    return [_PLACEHOLDER.sub(value, word) for word in words]
