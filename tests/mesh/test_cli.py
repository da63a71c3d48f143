"""The programs as their users start them: forwarder, endpoint and client, each a process of its own."""

import os
import re
import signal
import subprocess
from contextlib import ExitStack, contextmanager

import pytest

from tests.support.netns import network_namespaces
from tests.support.programs import running, vwire


@pytest.fixture
def pods():
    """Three namespaces, each with a process in it: the client's, the endpoint's, and a third party's."""
    with ExitStack() as stack:
        made = stack.enter_context(network_namespaces(3))
        for netns in made:
            stack.enter_context(netns.process("sh", "-c", "echo here; exec sleep infinity")).stdout.readline()
        yield made


@contextmanager
def mesh(tmp_path, endpoint_netns, *endpoint_options, services=("web",)):
    """A forwarder and an endpoint; yields the forwarder, the endpoint and the URL of the first hop."""
    nse, fwd = f"unix://{tmp_path}/nse.sock", f"unix://{tmp_path}/fwd.sock"
    with (
        running(
            "endpoint", "--insecure", "--listen-on", nse, "--netns", endpoint_netns.path, "--cidr-prefix",
            "172.16.0.0/24,fd00::/64", *(f"--service-names={name}" for name in services), *endpoint_options,
        ) as endpoint,
        running("forwarder", "--insecure", "--listen-on", fwd, "--next-hop", nse) as forwarder,
    ):  # fmt: skip
        endpoint.wait_for("serving, ")
        forwarder.wait_for("serving, ")
        yield forwarder, endpoint, fwd


@contextmanager
def client(first_hop, netns, *arguments, **variables):
    options = ("--insecure", "--connect-to", first_hop, "--netns", netns.path)
    with running("client", *options, *arguments, **variables) as program:
        yield program


def pings(netns, address, count=3):
    told = netns.run("ping", "-c", str(count), "-i", "0.05", "-W", "5", address, check=False).stdout
    return f" {count} received" in told


def test_unmodified_ping_and_curl_reach_a_service_that_was_asked_for_by_name(tmp_path, pods):
    app, server, _ = pods
    with (
        mesh(tmp_path, server) as (_, _, url),
        client(url, app, "kernel://web/nsm-1?app=blue") as nsc,
        server.process("python3", "-m", "http.server", "8080", cwd=str(tmp_path)),
    ):
        told = nsc.wait_for(r"nsc-0: kernel nsm-1 to web .* 172\.16\.0\.1/32, fd00::1/128, peer 172\.16\.0\.0/32")
        assert "MTU 9000" in told.string
        assert pings(app, "172.16.0.0")
        assert pings(app, "fd00::")
        curl = app.run(
            "curl", "-sS", "--fail", "--retry", "10", "--retry-connrefused", "--retry-delay", "1", "--max-time", "10",
            "http://172.16.0.0:8080/",
        )  # fmt: skip
        assert "Directory listing" in curl.stdout


def test_when_the_client_ends_nothing_of_its_vwires_is_left(tmp_path, pods):
    app, server, _ = pods
    before = app.links().keys(), server.links().keys()
    with mesh(tmp_path, server) as (forwarder, _, url):
        for number in (signal.SIGTERM, signal.SIGINT):
            with client(url, app, "kernel://web/nsm-1", "kernel://web/nsm-2") as nsc:
                nsc.wait_for("2 vWires are up")
                assert {"nsm-1", "nsm-2"} <= app.links().keys()
                assert nsc.end(number) == 0
            assert (app.links().keys(), server.links().keys()) == before
        assert forwarder.end() == 0


def test_a_namespace_is_named_by_a_process_in_it(tmp_path, pods):
    app, server, _ = pods
    with mesh(tmp_path, server) as (_, _, url), app.process("sleep", "infinity") as pause:
        client_of_pid = ("client", "--insecure", "--connect-to", url, "--netns", str(pause.pid))
        with running(*client_of_pid, "kernel://web/nsm-1") as nsc:
            nsc.wait_for("1 vWires are up")
            assert "nsm-1" in app.links()


def test_a_namespace_is_named_as_ip_netns_names_it(tmp_path, pods):
    _, server, _ = pods
    name = f"vwire-test-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        with mesh(tmp_path, server) as (_, _, url):
            with running("client", "--insecure", "--connect-to", url, "--netns", name, "kernel://web/nsm-1") as nsc:
                nsc.wait_for("1 vWires are up")
                ping = ("ip", "netns", "exec", name, "ping", "-c", "1", "-W", "5", "172.16.0.0")
                assert " 1 received" in subprocess.run(ping, capture_output=True, text=True, check=True).stdout
            told = vwire("client", "--insecure", "--connect-to", url, "--netns", "no-such", "kernel://web/nsm-1")
            assert told.returncode != 0
            assert "/run/netns/no-such" in told.stderr
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def test_once_makes_a_vwire_and_closes_it(tmp_path, pods):
    app, server, _ = pods
    with mesh(tmp_path, server) as (_, _, url):
        told = vwire("client", "--insecure", "--connect-to", url, "--netns", app.path, "--once", "kernel://web/nsm-1")
        assert told.returncode == 0, told.stderr
        assert "nsm-1" in told.stdout
        assert "nsm-1" not in app.links()


def test_settings_come_from_the_environment_of_a_pod(tmp_path, pods):
    app, server, _ = pods
    with mesh(tmp_path, server) as (_, _, url):
        told = vwire(
            "client", "--insecure", "--once", NSM_CONNECT_TO=url, NSM_NAME="alpine", NSM_NETNS=app.path,
            NSM_NETWORK_SERVICES="kernel://web/nsm-1,kernel://web/nsm-2", NODE_NAME="n1",
            NSM_LIVENESS_CHECK_ENABLED="true",
        )  # fmt: skip
        assert told.returncode == 0, told.stderr
        assert "alpine-0: kernel nsm-1" in told.stdout
        assert "alpine-1: kernel nsm-2" in told.stdout
        assert "without effect: NSM_LIVENESS_CHECK_ENABLED: vWires are refreshed" in told.stderr


def test_the_interface_the_pod_had_is_left_alone(tmp_path, pods):
    app, server, other = pods
    subprocess.run(
        ["ip", "link", "add", "eth0", "netns", app.path, "type", "veth", "peer", "name", "cni0", "netns", other.path],
        check=True,
    )
    app.run("ip", "address", "add", "192.0.2.5/24", "dev", "eth0")
    app.run("ip", "link", "set", "eth0", "addrgenmode", "none", "up")
    other.run("ip", "link", "set", "cni0", "up")
    app.run("ip", "route", "add", "default", "via", "192.0.2.1")

    def cni():
        shown = app.run("ip", "-d", "address", "show", "dev", "eth0").stdout
        return re.sub(r"valid_lft.*", "", shown), app.run("ip", "route", "show", "dev", "eth0").stdout

    before = cni()
    with mesh(tmp_path, server) as (_, _, url), client(url, app, "kernel://web/nsm-1") as nsc:
        nsc.wait_for("vWires are up")
        assert cni() == before
    assert cni() == before


def test_an_application_reaches_a_memif_endpoint_through_the_forwarder(tmp_path, pods):
    app, server, _ = pods
    with (
        mesh(tmp_path, server, "--mechanisms", "memif", services=["echo"]) as (_, _, url),
        client(url, app, "memif://echo") as nsc,
    ):
        told = nsc.wait_for(r"memif (@\S+) to echo .*, ([\d.]+)/32, (fd00::\d+)/128, peer ([\d.]+)/32, (fd00::\S*)/128")
        socket, source, source6, target, target6 = told.groups()
        for own, other in ((source, target), (source6, target6)):
            pinged = vwire(
                "memif-ping", "--socket", socket, "--netns", app.path, "--source", own, "--count", "20", "--interval",
                "1ms", "--size", "1400", other,
            )  # fmt: skip
            assert pinged.returncode == 0, pinged.stdout + pinged.stderr
            assert "20 packets transmitted, 20 received, 0% packet loss" in pinged.stdout


@pytest.mark.parametrize("mechanism", ["kernel", "memif"])
def test_a_packet_service_carries_ip_over_kernel_and_memif(tmp_path, pods, mechanism):
    app, server, _ = pods
    with (
        mesh(tmp_path, server, "--payload", "IP", "--mechanisms", mechanism, services=["packets"]) as _,
        running(
            "forwarder", "--insecure", "--listen-on", f"unix://{tmp_path}/ip.sock", "--default-payload", "IP",
            "--next-hop", f"packets=unix://{tmp_path}/nse.sock",
        ) as forwarder,
    ):  # fmt: skip
        forwarder.wait_for("serving, ")
        url = f"unix://{tmp_path}/ip.sock"
        with client(url, app, "kernel://packets/nsm-1", "memif://packets") as nsc:
            nsc.wait_for("2 vWires are up")
            peers = re.findall(r"peer ([\d.]+)/32", nsc.output)
            assert pings(app, peers[0])
            socket, source = re.search(r"memif (@\S+) to packets .*?, ([\d.]+)/32", nsc.output).groups()
            pinged = vwire(
                "memif-ping", "--socket", socket, "--netns", app.path, "--source", source, "--payload", "IP",
                "--count", "3", "--interval", "1ms", peers[1],
            )  # fmt: skip
            assert pinged.returncode == 0, pinged.stdout + pinged.stderr


@pytest.mark.parametrize(
    ("urls", "told"),
    [
        (["kernel://nothing"], "does not serve 'nothing'"),
        (["kernel://web/lo"], "lo"),
        (["kernel://web/nsm-1", "kernel://web/nsm-1"], "nsm-1"),
        (["vfio://web"], "mechanism VFIO is not known"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason_and_leaves_nothing(tmp_path, pods, urls, told):
    app, server, _ = pods
    before = app.links().keys(), server.links().keys()
    with mesh(tmp_path, server) as (_, _, url):
        result = vwire("client", "--insecure", "--connect-to", url, "--netns", app.path, *urls)
        assert result.returncode == 1
        last = result.stderr.strip().splitlines()[-1]
        assert last.startswith("vwire client: error: ")
        assert told in last
        assert "Traceback" not in result.stderr
        assert (app.links().keys(), server.links().keys()) == before


def test_a_next_hop_that_is_not_there_is_told_to_the_client(tmp_path, pods):
    url = f"unix://{tmp_path}/fwd.sock"
    with running(
        "forwarder", "--insecure", "--listen-on", url, "--next-hop", f"unix://{tmp_path}/no.sock"
    ) as forwarder:
        forwarder.wait_for("serving, ")
        result = vwire("client", "--insecure", "--connect-to", url, "--netns", pods[0].path, "kernel://web/nsm-1")
        assert result.returncode == 1
        assert "no.sock" in result.stderr
        assert "UNAVAILABLE" in result.stderr
        assert pods[0].links().keys() == {"lo"}


def test_a_first_hop_that_is_not_there_is_told(tmp_path):
    url = f"unix://{tmp_path}/none.sock"
    result = vwire("client", "--insecure", "--connect-to", url, "--dial-timeout", "200ms", "kernel://web")
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].startswith(f"vwire client: error: dial {url}: no connection")


def test_an_address_that_is_taken_is_told(tmp_path):
    url = f"unix://{tmp_path}/fwd.sock"
    arguments = ("forwarder", "--insecure", "--listen-on", url, "--next-hop", url)
    with running(*arguments) as first:
        first.wait_for("serving, ")
        second = vwire(*arguments)
        assert second.returncode == 2
        assert "another process listens there" in second.stderr


def test_signals_raise_the_log_level_and_restore_it(tmp_path):
    url = f"unix://{tmp_path}/fwd.sock"
    with running("forwarder", "--insecure", "--listen-on", url, "--next-hop", url) as forwarder:
        forwarder.wait_for("phase 1: .* ms\\)")
        forwarder.wait_for("serving, ")
        forwarder.send(signal.SIGUSR1)
        forwarder.wait_for("logging everything until SIGUSR2")
        forwarder.send(signal.SIGUSR2)
        forwarder.wait_for("logging from level INFO again")
        assert forwarder.end() == 0
        assert "ending on SIGTERM" in forwarder.output


def test_a_forwarder_loads_the_profile_and_says_so(tmp_path):
    url = f"unix://{tmp_path}/fwd.sock"
    knobs = tmp_path / "knobs.yaml"
    knobs.write_text("workers: 2\npoll_window: 20us\nstall_limit: 30ms\nmemif_ring_slots: 512\n")
    options = ("--insecure", "--listen-on", url, "--next-hop", url, "--profile", str(knobs))
    with running("forwarder", *options, NSM_POLL_WINDOW="10us") as forwarder:
        told = forwarder.wait_for(r"profile .*/knobs.yaml: (.*)")[1]
        forwarder.wait_for("start 2 workers")
        forwarder.wait_for("serving, ")
        assert forwarder.end() == 0
    assert told == (
        "workers=2 worker_cpus=[] poll_window=10us stall_limit=30ms memif_ring_slots=512 memif_buffer_bytes=2048"
    )


def test_two_memif_applications_ping_without_any_mesh(tmp_path):
    socket = f"{tmp_path}/memif.sock"
    with running("memif-ping", "--socket", socket, "--listen", "--source", "10.0.0.1", "--secret", "s3cret"):
        options = ("memif-ping", "--socket", socket, "--source", "10.0.0.2", "--count", "3", "--interval", "1ms")
        right = vwire(*options, "--secret", "s3cret", "10.0.0.1")
        assert right.returncode == 0, right.stdout + right.stderr
        wrong = vwire(*options, "--wait", "1s", "--secret", "guess", "10.0.0.1")
        assert wrong.returncode == 1
        assert "no connection within 1 s" in wrong.stderr


def test_a_ping_to_nobody_says_so(tmp_path):
    socket = f"{tmp_path}/memif.sock"
    result = vwire("memif-ping", "--socket", socket, "--source", "10.0.0.2", "--wait", "200ms", "10.0.0.1")
    assert result.returncode == 1
    assert result.stderr.strip().endswith(f"memif socket {socket}: no connection within 0.2 s")
    assert os.listdir(tmp_path) == []
