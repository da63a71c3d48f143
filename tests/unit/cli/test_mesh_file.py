"""The file of a local mesh: what it says, and how its mistakes are told."""

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.cli import mesh_file
from forwarder.errors import ConfigError

GOOD = """\
name: demo
pods:
  client: {}
  server:
    run: [python3 -m http.server, iperf3 -s]
endpoints:
  - name: responder
    pod: server
    services: [web]
    cidr_prefix: "[10.0.0.0/24,10.1.0.0/24],fd00::/64"
clients:
  - name: c
    pod: client
    connect: ["kernel://web/nsm-1?app=x", memif://web]
traffic:
  - {vwire: c-0, run: "ping {dst}"}
checks:
  - {name: a ping, vwire: c-1, run: "ping -c 3 '{dst}'", optional: true}
"""


def test_a_mesh_is_read():
    plan = mesh_file.parse(GOOD, "mesh.yaml")
    assert plan.name == "demo"
    assert [pod.name for pod in plan.pods] == ["client", "server"]
    assert plan.pods[1].run == (("python3", "-m", "http.server"), ("iperf3", "-s"))
    endpoint = plan.endpoints[0]
    assert (endpoint.mechanism, endpoint.payload, endpoint.services) == ("kernel", "ETHERNET", ("web",))
    assert endpoint.cidr_prefix == (("10.0.0.0/24", "10.1.0.0/24"), ("fd00::/64",))
    assert [url.mechanism for url in plan.clients[0].connect] == ["KERNEL", "MEMIF"]
    assert plan.traffic[0].name == "ping"
    assert plan.checks[0].run == ("ping", "-c", "3", "{dst}")
    assert plan.checks[0].optional


def test_the_built_in_example_is_a_mesh_of_both_mechanisms():
    plan = mesh_file.example()
    assert {endpoint.mechanism for endpoint in plan.endpoints} == {"kernel", "memif"}
    assert {url.mechanism for client in plan.clients for url in client.connect} == {"KERNEL", "MEMIF"}
    assert {check.run[0] for check in plan.checks} >= {"ping", "curl", "iperf3", "vwire"}


def changed(old, new):
    assert old in GOOD
    return GOOD.replace(old, new)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        (changed("    pod: server", "    pid: server"), 8, r"endpoints\[0\].pid: unknown key; known here: name, pod"),
        (changed("name: demo", "name: de/mo"), 1, "name: 'de/mo' is not a name"),
        (changed("    pod: server", "    pod: nowhere"), 8, "there is no pod 'nowhere'; there are: client, server"),
        (changed("    services: [web]", "    services: []"), 9, "at least one service"),
        (changed("    services: [web]\n", ""), 7, r"endpoints\[0\]: the key 'services' is missing"),
        (changed("    services: [web]", "    services: [other]"), 12, "no endpoint serves 'web'; served: other"),
        (
            changed("    services: [web]", "    services: [web]\n    mechanism: smoke"),
            10,
            "'smoke' is not one of kernel, m",
        ),
        (changed("[10.0.0.0/24,", "[10.0.0.0/24,["), 10, "cidr_prefix: not of the form"),
        (changed("kernel://web/nsm-1?app=x", "kernel//web"), 14, r"connect\[0\]: network service URL 'kernel//web'"),
        (changed("vwire: c-0", "vwire: c-7"), 16, "there is no vWire 'c-7'; there are: c-0, c-1"),
        (changed("ping {dst}", "ping {destination}"), 16, "unknown placeholder {destination}; known here: {dst}"),
        (changed("optional: true", "optional: maybe"), 18, "'maybe' is not one of true, false"),
        (changed("'{dst}'", "'{dst}"), 18, "not a command line"),
        (changed("  client: {}", "  client: {}\n  client: {}"), 4, "pods.client: given twice"),
        (changed("  client: {}", "  node: {}\n  client: {}"), 3, "forwarder's own namespace"),
        (changed("pods:", "pods: 7\nx:"), 3, "x: unknown key"),
        ("pods: 7\nendpoints: []\nclients: []\n", 1, "pods: a mapping is expected, not '7'"),
        ("pods: {}\nendpoints: []\nclients: []\n", 1, "at least one pod"),
        ("- a\n- b\n", 1, "a mapping is expected, not a list"),
        ("pods: [unclosed\nname: x\n", 2, "not YAML"),
        ("pods:\n\tclient: {}\n", 2, "not YAML"),
        ("? [a]\n: b\n", 1, "a key must be text"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_key(text, line, problem):
    with pytest.raises(ConfigError) as caught:
        mesh_file.parse(text, "mesh.yaml")
    told = str(caught.value)
    assert told.startswith(f"mesh.yaml:{line}: ")
    assert caught.match(problem.replace("{", r"\{").replace("}", r"\}"))


def test_two_endpoints_may_not_serve_the_same_service():
    second = "  - {name: second, pod: server, services: [web]}\nclients:"
    with pytest.raises(ConfigError, match="the service 'web' has an endpoint already"):
        mesh_file.parse(changed("clients:", second), "mesh.yaml")


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file_is_an_error(text):
    with pytest.raises(ConfigError):
        mesh_file.parse(text, "mesh.yaml")


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        mesh_file.load(tmp_path / "absent.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        mesh_file.load(tmp_path / "latin.yaml")


@given(st.text(max_size=200))
def test_any_text_is_a_mesh_or_a_config_error(text):
    with pytest.raises(ConfigError):
        mesh_file.parse(text, "mesh.yaml")


lines = st.lists(st.sampled_from(GOOD.splitlines()), max_size=25)


@given(lines, st.text("[]{}:-# &*!|>'\"%@`\n\t", max_size=8))
def test_shuffled_lines_are_a_mesh_or_a_config_error(chosen, noise):
    try:
        mesh_file.parse("\n".join(chosen) + noise, "mesh.yaml")
    except ConfigError as error:
        told = str(error)
    else:
        told = "mesh.yaml is fine"
    assert told.startswith("mesh.yaml")


def test_placeholders_are_filled():
    assert mesh_file.filled(["ping", "{dst}", "x{src}y"], {"dst": "1", "src": "2"}) == ["ping", "1", "x2y"]
    with pytest.raises(ConfigError, match=r"has no \{socket\}"):
        mesh_file.filled(["memif", "{socket}"], {"socket": ""})


def test_the_example_in_the_documentation_is_a_mesh():
    text = mesh_file.__doc__.split("```yaml\n")[1].split("```")[0]
    assert mesh_file.parse(textwrap.dedent(text), "doc").name == "demo"
