"""The settings of every program: one frozen class each, with NSM's variable names.

A setting is a field with a type, a default and a description. Its environment variable is
`NSM_` and the field's name in upper case (a few have no prefix, as in NSM), its flag is the
field's name with dashes. The table in the README and the `--help` texts are made from these
classes. Values are written the way Go writes them, so that a deployment made for NSM's own
programs works: durations `750ms` and `10m`, lists `a,b`, maps `k:v,k:v`, groups `[a,b],[c],d`.

pydantic stays in this file; everything else receives the plain values.
"""

import inspect
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, PlainSerializer, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from forwarder.errors import ConfigError

PREFIX = "NSM_"

# How Go writes values -----------------------------------------------------------------------

_NANOSECONDS = {
    "h": 3_600_000_000_000,
    "m": 60_000_000_000,
    "s": 1_000_000_000,
    "ms": 1_000_000,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ns": 1,
}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


def parse_duration(text: str) -> float:
    """Returns the seconds that a Go duration such as `1h2m`, `750ms` or `0` says.

    Raises ValueError for anything that Go's time.ParseDuration refuses.
    """
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    nanoseconds, position = Fraction(0), 0
    while match := _DURATION_PART.match(rest, position):
        nanoseconds += Fraction(Decimal(match[1])) * _NANOSECONDS[match[2]]
        position = match.end()
    if not rest or position != len(rest):
        raise ValueError("not a duration such as 750ms, 10s or 1h30m")
    return float(sign * nanoseconds / 1_000_000_000)


def format_duration(seconds: float) -> str:
    """Writes seconds in the largest unit that says them exactly: 600 is `10m`, 0.00005 is `50us`."""
    nanoseconds = round(seconds * 1_000_000_000)
    if nanoseconds == 0:
        return "0s"
    unit = next(unit for unit, size in _NANOSECONDS.items() if nanoseconds % size == 0)
    return f"{nanoseconds // _NANOSECONDS[unit]}{unit}"


def parse_bool(text: str) -> bool:
    """Reads a truth value as Go's strconv.ParseBool does."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("not one of true, false, 1, 0, t, f")


def parse_list(text: str) -> tuple[str, ...]:
    """Splits `a,b,c`; an empty text is an empty list."""
    return tuple(part.strip() for part in text.split(",")) if text.strip() else ()


def parse_map(text: str) -> dict[str, str]:
    """Splits `k1:v1,k2:v2`; a value may itself contain colons."""
    pairs: dict[str, str] = {}
    for part in parse_list(text):
        key, colon, value = part.partition(":")
        if not colon or not key:
            raise ValueError(f"{part!r} is not key:value")
        pairs[key] = value
    return pairs


def parse_groups(text: str) -> tuple[tuple[str, ...], ...]:
    """Splits `[a,b],[c],d` into groups: (a, b), (c,), (d,)."""
    groups: list[tuple[str, ...]] = []
    rest = text.strip()
    while rest:
        if rest.startswith("["):
            inside, bracket, rest = rest[1:].partition("]")
            if not bracket:
                raise ValueError("a '[' is not closed")
            if rest and not rest.startswith(","):
                raise ValueError("a ',' is missing after ']'")
            rest = rest.removeprefix(",").strip()
            group = parse_list(inside)
        else:
            inside, _, rest = rest.partition(",")
            rest = rest.strip()
            group = (inside.strip(),)
        if any(not item or "[" in item or "]" in item for item in group):
            raise ValueError("not of the form [a,b],[c],d")
        if group:
            groups.append(group)
    return tuple(groups)


def _from_text(parse: Any) -> BeforeValidator:
    """Applies `parse` to texts and leaves values that are already typed alone."""
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


def _integers(text: str) -> tuple[int, ...]:
    """Reads `0,2-4` as (0, 2, 3, 4)."""
    numbers: list[int] = []
    for part in parse_list(text):
        first, dash, last = part.partition("-")
        numbers.extend(range(int(first), int(last) + 1) if dash else (int(first),))
    return tuple(numbers)


def _group_text(groups: tuple[tuple[str, ...], ...]) -> str:
    return ",".join(group[0] if len(group) == 1 else f"[{','.join(group)}]" for group in groups)


def _log_level(text: str) -> str:
    level = {"TRACE": "DEBUG", "WARN": "WARNING", "FATAL": "CRITICAL", "PANIC": "CRITICAL"}.get(
        text.upper(), text.upper()
    )
    if level not in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}:
        raise ValueError("not one of TRACE, DEBUG, INFO, WARNING, ERROR, FATAL")
    return level


def _dns_configs(text: str) -> tuple[dict[str, Any], ...]:
    """Reads NSM's JSON array of DNS configurations."""
    try:
        configs = json.loads(text or "[]")
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    keys = {"dns_server_ips", "search_domains"}
    if not isinstance(configs, list) or not all(isinstance(c, dict) and set(c) <= keys for c in configs):
        raise ValueError("not a JSON array of objects with the keys dns_server_ips and search_domains")
    return tuple(configs)


Duration = Annotated[float, _from_text(parse_duration), PlainSerializer(format_duration)]
"""Seconds, written as in Go."""
Bool = Annotated[bool, _from_text(parse_bool), PlainSerializer(lambda value: str(value).lower())]
StringList = Annotated[tuple[str, ...], NoDecode, _from_text(parse_list), PlainSerializer(",".join)]
Mechanisms = Annotated[
    tuple[Literal["KERNEL", "MEMIF"], ...],
    NoDecode,
    BeforeValidator(lambda value: parse_list(value.upper()) if isinstance(value, str) else value),
    PlainSerializer(",".join),
]
"""Types of mechanisms that our own endpoint has, any case."""
IntegerList = Annotated[
    tuple[int, ...],
    NoDecode,
    _from_text(_integers),
    PlainSerializer(lambda value: ",".join(str(item) for item in value)),
]
StringMap = Annotated[
    dict[str, str],
    NoDecode,
    _from_text(parse_map),
    PlainSerializer(lambda value: ",".join(f"{key}:{item}" for key, item in value.items())),
]
Groups = Annotated[tuple[tuple[str, ...], ...], NoDecode, _from_text(parse_groups), PlainSerializer(_group_text)]
LogLevel = Annotated[str, BeforeValidator(_log_level)]
DnsConfigs = Annotated[tuple[dict[str, Any], ...], NoDecode, _from_text(_dns_configs), PlainSerializer(json.dumps)]
Payload = Literal["ETHERNET", "IP"]
Datapath = Literal["auto", "userspace", "kernel", "redirect"]
DATAPATH_MEANING = (
    "what carries frames: the kernel or shared memory, without the workers, where that can be (auto), "
    "the workers (userspace), nothing but the former (kernel), or the kernel by an interface of each pod's own and "
    "tc (redirect); a Request's label datapath overrides it"
)
REGISTRY_CLIENT_POLICIES = ("etc/nsm/opa/common/.*.rego", "etc/nsm/opa/registry/.*.rego", "etc/nsm/opa/client/.*.rego")
REGISTRY_CLIENT_MEANING = (
    "what the manager's answer to the registration has to satisfy: rules that are built in "
    "(etc/nsm/opa/...) and Rego files, as regular expressions (list)"
)
Secret = SecretStr
"""Printed as stars."""

# The programs -------------------------------------------------------------------------------


class Settings(BaseSettings):
    """What every program has in common."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True)

    log_level: LogLevel = Field(
        "INFO",
        description="TRACE, DEBUG, INFO, WARNING, ERROR or FATAL. SIGUSR1 switches to DEBUG, SIGUSR2 back",
    )


class WorkerSettings(Settings):
    """What every program with workers has in common."""

    workers: int = Field(1, ge=1, le=64, description="threads that carry frames")
    worker_cpus: IntegerList = Field((), description="CPUs to pin the workers to, one each: 0,2-4 (list)")
    poll_window: Duration = Field(
        50e-6, ge=0, description="how long a worker that ran out of frames polls before it sleeps"
    )
    rebalance_interval: Duration = Field(
        1.0,
        ge=0,
        description="how often the loads of several workers are compared, and a vWire moved to one that is less "
        "busy; 0s: never",
    )
    profile: str = Field(
        "",
        description="file of tuned knobs that `vwire tune` has written; workers, their CPUs and the poll window "
        "that are set by themselves come before it",
    )


class ForwarderSettings(WorkerSettings):
    """The settings of `vwire forwarder`."""

    name: str = Field("forwarder", min_length=1, description="name of this forwarder in every path it is part of")
    listen_on: str = Field(
        "unix:///listen.on.socket", description="where requests are served: unix:///path or tcp://host:port"
    )
    connect_to: str = Field(
        "unix:///connect.to.socket",
        description="the manager, where this forwarder registers and finds endpoints: unix:///path or tcp://host:port",
    )
    labels: StringMap = Field(
        {"p2p": "true"}, description="labels that this forwarder registers with, by which managers choose it (k:v,k:v)"
    )
    nsname: str = Field(
        "forwarder", min_length=1, description="network service that this forwarder registers as an endpoint of"
    )
    next_hop: StringList = Field(
        (),
        description="where requests go next, instead of asking and registering with a manager: "
        "URL for every network service, or SERVICE=URL for one (list)",
    )
    spiffe_endpoint_socket: str = Field(
        "",
        validation_alias="SPIFFE_ENDPOINT_SOCKET",
        description="the SPIFFE Workload API, from which this forwarder has its identity: unix:///path or tcp://ip:port",
    )
    registry_client_policies: StringList = Field(REGISTRY_CLIENT_POLICIES, description=REGISTRY_CLIENT_MEANING)
    max_token_lifetime: Duration = Field(
        600.0, gt=0, description="how long this forwarder vouches for its segment of a path"
    )
    dial_timeout: Duration = Field(0.75, gt=0, description="longest wait for a connection to the next hop")
    mechanism_priority: StringList = Field(
        (), description="mechanism types that are offered to the next hop first, in this order, any case (list)"
    )
    default_payload: Payload = Field(
        "ETHERNET", description="payload of connections for which nobody has told one: ETHERNET or IP"
    )
    datapath: Datapath = Field("auto", description=DATAPATH_MEANING)
    owner: str = Field(
        "",
        description="whose the links are that this forwarder makes: the same after a restart or an upgrade, another "
        "for every forwarder of a node; empty is its name and where it listens",
    )
    keep_vwires: Bool = Field(
        True,
        description="what is carried in the kernel stays when this forwarder ends, and is taken over by the next "
        "one; false closes every vWire",
    )


class ClientSettings(Settings):
    """The settings of `vwire client`."""

    name: str = Field("nsc", min_length=1, description="name of this client; its i-th connection is NAME-i")
    connect_to: str = Field(
        "unix:///var/lib/networkservicemesh/nsm.io.sock",
        description="the first hop: the manager or a forwarder, unix:///path or tcp://host:port",
    )
    network_services: StringList = Field(
        (), description="what to connect to: mechanism://service[@domain][/interface][?label=value] (list)"
    )
    netns: str = Field(
        "", description="namespace the interfaces go to: a process id, a path or a name; empty is this one"
    )
    dial_timeout: Duration = Field(5.0, gt=0, description="longest wait for a connection to the first hop")
    request_timeout: Duration = Field(15.0, gt=0, description="longest wait for one Request or Close")
    spiffe_endpoint_socket: str = Field(
        "",
        validation_alias="SPIFFE_ENDPOINT_SOCKET",
        description="the SPIFFE Workload API, from which this client has its identity: unix:///path or tcp://ip:port",
    )
    max_token_lifetime: Duration = Field(
        600.0, gt=0, description="lifetime of a connection that is not refreshed; refreshes come well before"
    )
    node_name: str = Field("", validation_alias="NODE_NAME", description="sent as label nodeName")
    pod_name: str = Field("", validation_alias="POD_NAME", description="sent as label podName")
    cluster_name: str = Field("", validation_alias="CLUSTER_NAME", description="sent as label clusterName")


class EndpointSettings(Settings):
    """The settings of `vwire endpoint`."""

    name: str = Field("icmp-server", min_length=1, description="name of this endpoint")
    listen_on: str = Field(
        "unix:///var/lib/networkservicemesh/icmp-server.sock",
        description="where requests are served: unix:///path or tcp://host:port",
    )
    netns: str = Field(
        "", description="namespace the endpoint lives in: a process id, a path or a name; empty is this one"
    )
    service_names: StringList = Field(("icmp-responder",), description="network services that are served (list)")
    connect_to: str = Field(
        "",
        description="the manager, where this endpoint and its network services are registered: unix:///path or "
        "tcp://host:port; empty registers nowhere",
    )
    register_service: Bool = Field(
        True, description="whether the network services are registered too, or are there already"
    )
    labels: StringMap = Field(
        {}, description="labels that this endpoint registers with, under every network service (k:v,k:v)"
    )
    registry_client_policies: StringList = Field(REGISTRY_CLIENT_POLICIES, description=REGISTRY_CLIENT_MEANING)
    dial_timeout: Duration = Field(0.75, gt=0, description="longest wait for a connection to the manager")
    payload: Payload = Field("ETHERNET", description="payload of the services: ETHERNET or IP")
    mechanisms: Mechanisms = Field(
        ("KERNEL",),
        min_length=1,
        description="what the endpoint can be reached by: KERNEL, an interface in its namespace; "
        "MEMIF, where the program itself answers pings (list)",
    )
    cidr_prefix: Groups = Field(
        (("169.254.0.0/16",),),
        description="prefixes of the addresses: each group [a,b] gives every client one pair, "
        "from its first prefix with room",
    )
    ipam_policy: Literal["polite", "strict"] = Field(
        "polite", description="addresses from elsewhere are kept (polite) or dropped (strict)"
    )
    dns_configs: DnsConfigs = Field(
        (), description='DNS servers told to clients: JSON [{"dns_server_ips": [], "search_domains": []}]'
    )
    spiffe_endpoint_socket: str = Field(
        "",
        validation_alias="SPIFFE_ENDPOINT_SOCKET",
        description="the SPIFFE Workload API, from which this endpoint has its identity: unix:///path or tcp://ip:port",
    )
    max_token_lifetime: Duration = Field(
        600.0, gt=0, description="how long this endpoint vouches for its segment of a path"
    )


class UpSettings(WorkerSettings):
    """The settings of `vwire up`."""

    name: str = Field("", description="name of the mesh; empty takes the name in the file")
    run_dir: str = Field("/run/vwire", description="folder of sockets and of what `vwire down` needs to know")
    datapath: Datapath = Field("auto", description=DATAPATH_MEANING)


class AuthoritySettings(Settings):
    """The settings of `vwire authority`."""

    trust_domain: str = Field("example.org", description="trust domain of every identity that is issued")
    workloads: StringList = Field(
        (), description="who is who: PATH=unix:///socket, the path of a SPIFFE ID and the socket it is told on (list)"
    )
    svid_lifetime: Duration = Field(
        3600.0, gt=0, description="how long a certificate is valid; it is renewed at half of that"
    )
    root_lifetime: Duration = Field(
        7 * 24 * 3600.0, gt=0, description="how long a root is valid; the next is announced at half of that"
    )
    intermediates: int = Field(0, ge=0, le=5, description="certificates between the root and each workload's")
    bundle_file: str = Field("", description="file that our roots are written to, as PEM, for other trust domains")
    federates_with: StringList = Field(
        (), description="other trust domains to trust: TRUST-DOMAIN=FILE, with their roots as PEM (list)"
    )


PROGRAMS: Mapping[str, type[Settings]] = {
    "forwarder": ForwarderSettings,
    "client": ClientSettings,
    "endpoint": EndpointSettings,
    "up": UpSettings,
    "authority": AuthoritySettings,
}

_NO_TLS = "calls carry no certificates and tokens yet"
_NO_VPP = "frames are carried by vwire itself, without VPP"
_NO_SRIOV = "SR-IOV and VFIO are not served"
_NO_METRICS = "metrics, traces and profiles are not exported yet"

_IGNORED_COMMON: Mapping[str, str] = {
    "NSM_OPEN_TELEMETRY_ENDPOINT": _NO_METRICS,
    "NSM_METRICS_EXPORT_INTERVAL": _NO_METRICS,
    "NSM_PPROF_ENABLED": "pprof is a tool for Go programs",
    "NSM_PPROF_LISTEN_ON": "pprof is a tool for Go programs",
    "TELEMETRY": _NO_METRICS,
    "PROMETHEUS": _NO_METRICS,
    "PROMETHEUS_METRICS_PREFIX": _NO_METRICS,
}
_IGNORED_IDENTITY: Mapping[str, str] = {"SPIFFE_ENDPOINT_SOCKET": _NO_TLS}

IGNORED: Mapping[str, Mapping[str, str]] = {
    "forwarder": {
        **_IGNORED_COMMON,
        "NSM_PROMETHEUS_LISTEN_ON": _NO_METRICS,
        "NSM_PROMETHEUS_CA_FILE": _NO_METRICS,
        "NSM_PROMETHEUS_KEY_FILE": _NO_METRICS,
        "NSM_PROMETHEUS_CERT_FILE": _NO_METRICS,
        "NSM_PROMETHEUS_MONITOR_CERTIFICATE": _NO_METRICS,
        "NSM_PROMETHEUS_SERVER_HEADER_TIMEOUT": _NO_METRICS,
        "NSM_PROMETHEUS_MAX_BIND_THRESHOLD": _NO_METRICS,
        "NSM_TUNNEL_IP": "there are no tunnels to other nodes yet",
        "NSM_VXLAN_PORT": "there are no tunnels to other nodes yet",
        "NSM_VPP_API_SOCKET": _NO_VPP,
        "NSM_VPP_INIT": _NO_VPP,
        "NSM_VPP_INIT_PARAMS": _NO_VPP,
        "NSM_VPP_MIN_OPERATION_TIMEOUT": _NO_VPP,
        "NSM_RESOURCE_POLL_TIMEOUT": _NO_SRIOV,
        "NSM_DEVICE_PLUGIN_PATH": _NO_SRIOV,
        "NSM_POD_RESOURCES_PATH": _NO_SRIOV,
        "NSM_DEVICE_SELECTOR_FILE": "the VLAN mechanism is not served yet",
        "NSM_SRIOV_CONFIG_FILE": _NO_SRIOV,
        "NSM_PCI_DEVICES_PATH": _NO_SRIOV,
        "NSM_PCI_DRIVERS_PATH": _NO_SRIOV,
        "NSM_CGROUP_PATH": _NO_SRIOV,
        "NSM_VFIO_PATH": _NO_SRIOV,
    },
    "client": {
        **_IGNORED_COMMON,
        "NSM_LABELS": "labels are part of each URL in NSM_NETWORK_SERVICES",
        "NSM_MECHANISM": "the scheme of each URL in NSM_NETWORK_SERVICES decides",
        "NSM_AWARENESS_GROUPS": "prefixes of other connections are not excluded yet",
        "NSM_LOCAL_DNS_SERVER_ENABLED": "the client runs no resolver yet",
        "NSM_LOCAL_DNS_SERVER_ADDRESS": "the client runs no resolver yet",
        "NSM_LIVENESS_CHECK_ENABLED": "vWires are refreshed but not probed yet",
        "NSM_LIVENESS_CHECK_INTERVAL": "vWires are refreshed but not probed yet",
        "NSM_LIVENESS_CHECK_TIMEOUT": "vWires are refreshed but not probed yet",
    },
    "endpoint": {
        **_IGNORED_COMMON,
        "NSM_BASE_DIR": "the socket's path is in NSM_LISTEN_ON",
        "NSM_UNREGISTER_ITSELF": "the endpoint always unregisters itself at its end",
        "NSM_IDLE_TIMEOUT": "the endpoint does not end by itself",
        "NSM_PBR_CONFIG_PATH": "the endpoint sends no policy routes yet",
    },
    "up": {**_IGNORED_COMMON, **_IGNORED_IDENTITY},
    "authority": _IGNORED_COMMON,
}
"""Variables of NSM's programs that are accepted without effect, and why."""

# Loading and showing ------------------------------------------------------------------------

S = TypeVar("S", bound=Settings)


def variable(name: str, field: FieldInfo) -> str:
    """Returns the environment variable of a field."""
    if isinstance(field.validation_alias, str):
        return field.validation_alias
    return PREFIX + name.upper()


def flag(name: str) -> str:
    """Returns the command-line flag of a field."""
    return "--" + name.replace("_", "-")


def load(program: type[S], flags: Mapping[str, Any] | None = None) -> S:
    """Reads a program's settings: flag before environment before default.

    `flags` maps field names to what was given on the command line; None means not given.
    Raises ConfigError naming every variable or flag that cannot be used, with its value.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    arguments = {
        alias if isinstance(alias := program.model_fields[name].validation_alias, str) else name: value
        for name, value in given.items()
    }
    try:
        return program(**arguments)
    except ValidationError as error:
        raise ConfigError(_explain(program, given, error)) from error


def _explain(program: type[Settings], given: Mapping[str, Any], error: ValidationError) -> str:
    names = {variable(name, field): name for name, field in program.model_fields.items()}
    lines = []
    for fault in error.errors(include_url=False, include_context=False):
        name = str(fault["loc"][0])
        name = names.get(name, name)
        field = program.model_fields[name]
        reason = fault["msg"].removeprefix("Value error, ")
        if name in given:
            source, value = flag(name), given[name]
        else:
            source, value = variable(name, field), os.environ.get(variable(name, field), "")
        shown = "'**********'" if field.annotation is SecretStr else repr(value)
        lines.append(f"{source}={shown} cannot be used: {reason}")
    return "; ".join(dict.fromkeys(lines))


def ignored(program: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables in `environ` that look like settings but have no effect, each with its reason.

    Those of NSM's that are empty, or switch something off that is not there, are as they should be.
    """
    known = {variable(name, field) for name, field in PROGRAMS[program].model_fields.items()}
    reasons = {
        name: reason
        for name, reason in IGNORED[program].items()
        if name not in known and environ.get(name, "") not in ("", *_FALSE)
    }
    for name in environ:
        if name.startswith(PREFIX) and name not in known and name not in IGNORED[program]:
            reasons[name] = f"`vwire {program}` has no such setting"
    return reasons


def effective(settings: Settings) -> dict[str, str]:
    """Returns every variable with the value in force, written as it would be set; secrets are stars."""
    texts = settings.model_dump(mode="json")
    return {variable(name, field): _text(texts[name]) for name, field in type(settings).model_fields.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of the settings table."""

    field: str
    variable: str
    flag: str
    default: str
    description: str
    is_list: bool
    """Whether the flag may be repeated, each time with one more item."""


def describe(program: type[Settings]) -> list[Setting]:
    """Returns a program's settings in the order of the table: its own, then those it shares with others."""
    texts = effective(program.model_construct())
    rows = [
        Setting(
            field=name,
            variable=variable(name, field),
            flag=flag(name),
            default=texts[variable(name, field)],
            description=field.description or "",
            is_list=(field.description or "").endswith("(list)"),
        )
        for name, field in program.model_fields.items()
    ]
    declared = [inspect.get_annotations(each) for each in program.__mro__]
    return sorted(rows, key=lambda row: next(n for n, names in enumerate(declared) if row.field in names))


def settings_table(program: type[Settings]) -> str:
    """Renders a program's settings as a Markdown table, for the README."""
    lines = ["| variable | flag | default | meaning |", "| --- | --- | --- | --- |"]
    for row in describe(program):
        default = f"`{row.default}`" if row.default else "(empty)"
        meaning = row.description.replace("|", "\\|")
        lines.append(f"| `{row.variable}` | `{row.flag}` | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def write_tables(document: str) -> str:
    """Returns `document` with every table between `<!-- settings:PROGRAM -->` and `<!-- /settings -->` renewed.

    Raises ConfigError for a program that does not exist.
    """

    def table(match: re.Match[str]) -> str:
        if match[1] not in PROGRAMS:
            raise ConfigError(f"settings table of {match[1]!r}", detail="there is no such program")
        return f"<!-- settings:{match[1]} -->\n{settings_table(PROGRAMS[match[1]])}<!-- /settings -->"

    return re.sub(r"<!-- settings:([a-z-]+) -->\n.*?<!-- /settings -->", table, document, flags=re.DOTALL)
