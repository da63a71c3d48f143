"""Each program of a node is killed and started again, while a client pings its endpoint."""

import json
import re
import time
from contextlib import contextmanager
from itertools import pairwise

import pytest

from tests.support.netns import network_namespaces
from tests.support.nsm_go import check_path, end, kill, nsm_mesh
from tests.support.programs import ROOT

PATH = ["nsc", "manager", "forwarder", "nse"]
SERVICE = "kernel://icmp-responder/nsm-1"
SETTLED_S = 1.0
"""How long replies have to come before the pair counts as joined again."""
PATIENCE_S = 40.0


class Probe:
    """A thousand echo requests a second, and which of them were answered."""

    def __init__(self, process, output):
        self._process = process
        self._output = output

    def answered(self):
        return [int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", self._output.read_text())]

    def wait_settled(self):
        """Waits until nearly all of what was sent in the last while was answered."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            before = len(self.answered())
            time.sleep(SETTLED_S)
            rate = (len(self.answered()) - before) / SETTLED_S
            if rate > 300:
                return
            assert time.monotonic() < deadline, f"{rate:.0f} answers a second\n{self._output.read_text()[-500:]}"


@contextmanager
def probe(netns, target, output):
    with output.open("w") as file, netns.process("ping", "-n", "-i", "0.001", target, stdout=file) as process:
        yield Probe(process, output)


def tell(row):
    """Puts a row into the table of the results, which has one JSON object a line."""
    table = ROOT / "build" / "test-results" / "nsm-restarts.jsonl"
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("a") as file:
        file.write(json.dumps(row) + "\n")


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("who", "datapath"),
    [
        ("client", "auto"), ("endpoint", "auto"), ("manager", "auto"), ("registry", "auto"), ("forwarder", "auto"),
        ("forwarder", "userspace"),
    ],
)  # fmt: skip
def test_a_program_that_is_killed_comes_back_and_the_pair_is_joined(tmp_path, who, datapath):
    with network_namespaces(3) as (near, far, late), near.process("sleep", "600"), nsm_mesh(tmp_path) as mesh:
        mesh.authority(["registry", "manager", "forwarder", "nse", "nsc", "other"])
        start = {
            "registry": mesh.registry,
            "manager": mesh.manager,
            "forwarder": lambda: mesh.forwarder(NSM_DATAPATH=datapath),
            "endpoint": lambda: mesh.endpoint(far, NSM_CIDR_PREFIX="172.16.1.0/24"),
            # NSM's manager keeps a Request that finds no forwarder until its deadline; it is asked again then.
            "client": lambda: mesh.client(near, SERVICE, NSM_REQUEST_TIMEOUT="3s"),
        }
        row: dict[str, object] = {"killed": who, "datapath": datapath}
        programs = {name: begin() for name, begin in start.items()}
        first = programs["client"].wait_event("connected")["connection"]
        before = near.links()["nsm-1"]
        target = first["context"]["ip_context"]["dst_ip_addrs"][0].partition("/")[0]
        with probe(near, target, tmp_path / "ping.out") as pings:
            pings.wait_settled()
            kill(programs[who])
            killed = time.time_ns()
            programs[who] = start[who]()
            if who != "registry":  # of which nobody has to ask anything
                again = programs["client"].wait_event("connected", lambda told: told["time"] > killed)
                row["connected_again_ms"] = (again["time"] - killed) // 1_000_000
            pings.wait_settled()
        newcomer = mesh.client(late, SERVICE, name="other")
        newcomer.wait_event("connected")
        row["serves_a_new_client_ms"] = (time.time_ns() - killed) // 1_000_000
        end(newcomer)
        answered = pings.answered()
        told = programs["client"].events("connected")[-1]["connection"]
        after = near.links()["nsm-1"]
        for name in ("client", "endpoint", "forwarder", "manager", "registry"):
            end(programs[name])
        gaps = [later - earlier - 1 for earlier, later in pairwise(answered)]
        row["sent"] = answered[-1]
        row["lost"] = sum(gaps)
        row["lost_in_a_row"] = max(gaps)
        tell(row)
        if who != "endpoint":  # whose interface went with it
            assert (after["ifindex"], after["address"]) == (before["ifindex"], before["address"])
        check_path(told, PATH)
