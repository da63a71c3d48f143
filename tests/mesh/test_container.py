"""What the forwarder's manifest and unit grant is enough, and what they leave out is not needed."""

from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml

from tests.support.netns import network_namespaces
from tests.support.programs import ROOT, running

MANIFEST = yaml.safe_load((ROOT / "deploy/kubernetes/forwarder.yaml").read_text())["spec"]["template"]["spec"]
UNIT = (ROOT / "deploy/systemd/vwire-forwarder.service").read_text()


def capabilities_of_container():
    context = MANIFEST["containers"][0]["securityContext"]
    assert not context["privileged"]
    assert context["capabilities"]["drop"] == ["ALL"]
    return frozenset(context["capabilities"]["add"])


def capabilities_of(setting):
    line = next(line for line in UNIT.splitlines() if line.startswith(setting))
    return frozenset(name.removeprefix("CAP_") for name in line.partition("=")[2].split())


def setpriv(capabilities, *options):
    these = ",".join(["-all", *(f"+{name.lower()}" for name in sorted(capabilities))])
    return ["setpriv", *options, f"--bounding-set={these}", f"--inh-caps={these}", f"--ambient-caps={these}"]


def container(capabilities, writable):
    """What a runtime makes of the manifest: a read-only tree, /proc/sys among it, root without most of its rights."""
    script = (
        "mount -o remount,bind,ro / && mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys"
        ' && mount --bind "$0" "$0" && mount -o remount,bind,rw "$0" && ! touch / && exec "$@"'
    )
    return ["unshare", "-m", "sh", "-ec", script, writable, *setpriv(capabilities), "--"]


def unit(capabilities):
    """What systemd makes of the unit: a user of its own with these capabilities."""
    return [*setpriv(capabilities, "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"), "--"]


@pytest.fixture
def pods():
    """The client's namespace and the endpoint's, each with a process in it that has every capability."""
    with ExitStack() as stack:
        made = stack.enter_context(network_namespaces(2))
        for netns in made:
            stack.enter_context(netns.process("sh", "-c", "echo here; exec sleep infinity")).stdout.readline()
            netns.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        yield made


@pytest.fixture
def run_dir():
    """A folder for sockets that anybody may write to, with a name short enough for those of memif below it."""
    with TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o777)
        yield folder


@contextmanager
def forwarder(run_dir, endpoint_netns, *, under):
    nse, fwd = f"unix://{run_dir}/nse.sock", f"unix://{run_dir}/fwd.sock"
    with (
        running(
            "endpoint", "--insecure", "--listen-on", nse, "--netns", endpoint_netns.path, "--mechanisms",
            "KERNEL,MEMIF", "--cidr-prefix", "172.16.0.0/24,fd00::/64", "--service-names", "web",
        ) as endpoint,
        running(
            "forwarder", "--insecure", "--listen-on", fwd, "--next-hop", nse, "--mechanism-priority", "KERNEL",
            under=under, TMPDIR=run_dir,
        ) as program,
    ):  # fmt: skip
        endpoint.wait_for("serving, ")
        program.wait_for("serving, ")
        yield program, fwd


def everything_works(run_dir, pods, under):
    """Asks for a vWire of each kind, for both families, and sends traffic; nothing may be left at the end."""
    app, server = pods
    before = app.links().keys(), server.links().keys()
    with forwarder(run_dir, server, under=under) as (program, url):
        for services in ("kernel://web/nsm-1", "kernel://web/nsm-1?datapath=userspace", "memif://web"):
            nsc = ("client", "--insecure", "--connect-to", url, "--netns", app.path, services)
            with running(*nsc) as client:
                client.wait_for("1 vWires are up")
                if services.startswith("kernel"):
                    for address in ("172.16.0.0", "fd00::"):
                        assert " 2 received" in app.run("ping", "-c2", "-i0.05", "-W5", address).stdout
                assert client.end() == 0
        assert (app.links().keys(), server.links().keys()) == before
        assert program.end() == 0, program.output
    assert "Traceback" not in program.output


def test_in_a_container_the_capabilities_of_the_manifest_are_enough(run_dir, pods):
    everything_works(run_dir, pods, container(capabilities_of_container(), run_dir))


def test_as_a_service_the_capabilities_of_the_unit_are_enough(run_dir, pods):
    everything_works(run_dir, pods, unit(capabilities_of("CapabilityBoundingSet=")))


def test_manifest_and_unit_grant_the_same():
    assert capabilities_of("CapabilityBoundingSet=") == capabilities_of("AmbientCapabilities=")
    assert capabilities_of("CapabilityBoundingSet=") == capabilities_of_container()
