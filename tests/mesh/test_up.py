"""`vwire up` shows real frames, ends by itself, and leaves nothing, however it ends."""

import json
import os
import pty
import re
import secrets
import select
import signal
import subprocess
import termios
import time
from pathlib import Path

import psutil
import pytest

from tests.support.programs import command, environment, running, vwire

RUN = secrets.token_hex(3)
NAME, OTHER, SHOWN = (f"{name}-{RUN}" for name in ("small", "other", "shown"))
"""Of this run's meshes: processes are looked for machine-wide, and another run may be going on."""

SMALL = """\
name: NAME
pods:
  a: {}
  b: {run: [python3 -m http.server 8080]}
endpoints:
  - {name: nse, pod: b, services: [web], cidr_prefix: "10.9.0.0/24,fd09::/64"}
clients:
  - {name: c, pod: a, connect: [kernel://web/nsm-1]}
checks:
  - {name: a ping, vwire: c-0, run: "ping -c 2 -i 0.2 {dst}"}
""".replace("NAME", NAME)


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def run_dir(tmp_path):
    return tmp_path / "run"


def namespaces():
    return (
        {name for name in os.listdir("/run/netns") if name.startswith("vwire-")}
        if Path("/run/netns").exists()
        else set()
    )


def left_of(mesh, run_dir):
    """What is left of a mesh: namespaces, records, processes."""
    found = [name for name in namespaces() if name.startswith(f"vwire-{mesh}-")]
    found += [str(path) for path in (run_dir / mesh).rglob("*")] if (run_dir / mesh).exists() else []
    for process in psutil.process_iter():
        try:
            if process.environ().get("VWIRE_MESH") == mesh and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except (psutil.Error, OSError):
            continue
    return found


def lives(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def frames_of(output, vwire_name):
    """The frames of both directions in the last table."""
    rows = output[output.rindex("mean rates") :].splitlines()
    at = next(i for i, row in enumerate(rows) if row.strip().startswith(f"{vwire_name} "))
    return [re.search(r"(?:KERNEL|MEMIF)/\S+ +(\S+)", row)[1] for row in rows[at : at + 2]]


@pytest.mark.timeout(180)
def test_without_file_and_terminal_it_shows_frames_on_every_vwire_and_ends_well(run_dir):
    result = vwire("up", "--name", SHOWN, "--run-dir", str(run_dir), timeout_s=120)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0% packet loss" in result.stdout
    assert re.search(r"passed +curl, kernel to kernel .* 200 ", result.stdout)
    assert re.search(r"passed +an application without kernel interface, memif to memif .* 100 received", result.stdout)
    for name in ("client-0", "client-1", "app-1"):
        assert all(frames not in ("0", "-") for frames in frames_of(result.stdout, name))
    assert left_of(SHOWN, run_dir) == []


def test_it_loads_a_profile_and_says_so(small, run_dir, tmp_path):
    profile = tmp_path / "knobs.yaml"
    profile.write_text("workers: 2\nmemif_ring_slots: 512\n")
    told = vwire("up", str(small), "--run-dir", str(run_dir), "--profile", str(profile), "--poll-window", "0s")
    assert told.returncode == 0, told.stdout + told.stderr
    assert f"profile {profile}: workers=2 worker_cpus=[] poll_window=0s" in told.stderr
    assert "memif_ring_slots=512" in told.stderr
    assert "the forwarder, 2 workers" in told.stderr


def test_its_pods_are_namespaces_for_other_programs(small, run_dir):
    with running("up", str(small), "--run-dir", str(run_dir), "--for", "600") as up:
        up.wait_for("passed +a ping")
        ping = subprocess.run(
            ["ip", "netns", "exec", f"vwire-{NAME}-a", "ping", "-c", "1", "10.9.0.0"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "1 received" in ping.stdout
        shown = subprocess.run(
            ["ip", "-n", f"vwire-{NAME}-a", "-br", "address", "show", "nsm-1"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "10.9.0.1/32" in shown.stdout
        assert "fd09::1/128" in shown.stdout
        assert up.end(signal.SIGTERM) == 0
    assert left_of(NAME, run_dir) == []


def test_an_interrupt_while_it_starts_leaves_nothing(small, run_dir):
    with running("up", str(small), "--run-dir", str(run_dir)) as up:
        up.wait_for("phase 1")
        assert up.end(signal.SIGINT) == 0, up.output
    assert left_of(NAME, run_dir) == []


def test_down_ends_a_mesh_that_is_up(small, run_dir):
    with running("up", str(small), "--run-dir", str(run_dir), "--for", "600") as up:
        up.wait_for("passed +a ping")
        told = vwire("down", NAME, "--run-dir", str(run_dir))
        assert told.returncode == 0
        assert "ended vwire up" in told.stdout
        assert up.end() == 0
    assert left_of(NAME, run_dir) == []


def test_down_takes_away_what_a_killed_mesh_left(small, run_dir):
    with running("up", str(small), "--run-dir", str(run_dir), "--for", "600") as up:
        up.wait_for("passed +a ping")
        pid = json.loads((run_dir / NAME / "record.json").read_text())["pid"]
        os.kill(pid, signal.SIGKILL)
        up.end()
    assert left_of(NAME, run_dir) != []
    told = vwire("down", NAME, "--run-dir", str(run_dir))
    assert f"removed namespace vwire-{NAME}-a" in told.stdout
    assert left_of(NAME, run_dir) == []
    assert vwire("down", "--run-dir", str(run_dir)).stdout == "there is no local mesh\n"


def test_its_programs_die_with_it(small, run_dir):
    with running("up", str(small), "--run-dir", str(run_dir), "--for", "600") as up:
        up.wait_for("passed +a ping")
        programs = psutil.Process(up.process.pid).children(recursive=True)
        assert any("http.server" in " ".join(program.cmdline()) for program in programs)
        up.process.kill()
        up.end()
        _, alive = psutil.wait_procs(programs, timeout=10)
        assert [program for program in alive if lives(program)] == []
    vwire("down", NAME, "--run-dir", str(run_dir))


def test_a_mesh_that_was_killed_does_not_stop_the_next(small, run_dir):
    with running("up", str(small), "--run-dir", str(run_dir), "--for", "600") as up:
        up.wait_for("passed +a ping")
        up.process.kill()
        up.end()
    again = vwire("up", str(small), "--run-dir", str(run_dir))
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"an earlier mesh {NAME} was killed" in again.stderr
    assert left_of(NAME, run_dir) == []


def test_a_name_that_is_taken_is_told(small, run_dir):
    with running("up", str(small), "--run-dir", str(run_dir), "--for", "600") as up:
        up.wait_for("passed +a ping")
        second = vwire("up", str(small), "--run-dir", str(run_dir))
        assert second.returncode == 2
        assert f"a mesh called '{NAME}' is up already" in second.stderr
        assert up.process.poll() is None


def test_a_namespace_of_somebody_else_is_left_alone(small, run_dir):
    subprocess.run(["ip", "netns", "add", f"vwire-{NAME}-b"], check=True)
    try:
        result = vwire("up", str(small), "--run-dir", str(run_dir))
        assert result.returncode == 2
        assert f"needs the network namespace vwire-{NAME}-b: it is there already" in result.stderr
        assert left_of(NAME, run_dir) == [f"vwire-{NAME}-b"]
    finally:
        subprocess.run(["ip", "netns", "delete", f"vwire-{NAME}-b"], check=True)


def test_two_meshes_do_not_meet(small, run_dir):
    with (
        running("up", str(small), "--run-dir", str(run_dir), "--for", "600") as one,
        running("up", str(small), "--name", OTHER, "--run-dir", str(run_dir), "--for", "600") as other,
    ):
        one.wait_for("passed +a ping")
        other.wait_for("passed +a ping")
        assert one.end() == 0
        again = subprocess.run(
            ["ip", "netns", "exec", f"vwire-{OTHER}-a", "ping", "-c", "1", "10.9.0.0"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "1 received" in again.stdout
    assert left_of(NAME, run_dir) + left_of(OTHER, run_dir) == []


def test_a_check_that_fails_fails_the_mesh_and_says_what_came_back(tmp_path, run_dir):
    path = tmp_path / "failing.yaml"
    path.write_text(SMALL.replace("ping -c 2 -i 0.2 {dst}", "ping -c 1 -W 1 10.9.0.77"))
    result = vwire("up", str(path), "--run-dir", str(run_dir))
    assert result.returncode == 1
    assert re.search(r"FAILED +a ping", result.stdout)
    assert "1 of 1 checks failed: 'a ping'" in result.stderr
    assert left_of(NAME, run_dir) == []


def test_a_mistake_in_the_file_is_told_before_anything_is_made(tmp_path, run_dir):
    path = tmp_path / "wrong.yaml"
    path.write_text(SMALL.replace("pod: a", "pot: a"))
    result = vwire("up", str(path), "--run-dir", str(run_dir))
    assert result.returncode == 2
    assert "wrong.yaml:8: clients[0].pot: unknown key" in result.stderr
    assert not run_dir.exists()


def test_a_name_longer_than_an_interface_may_have_leaves_nothing(tmp_path, run_dir):
    path = tmp_path / "long.yaml"
    path.write_text(SMALL.replace("nsm-1", "an-interface-with-a-long-name"))
    result = vwire("up", str(path), "--run-dir", str(run_dir))
    assert result.returncode == 1
    assert "longer than 15 bytes" in result.stderr
    assert left_of(NAME, run_dir) == []


def test_without_privilege_it_says_what_it_needs(small, run_dir):
    without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    result = subprocess.run(
        [*without, *command("up", str(small), "--run-dir", str(run_dir))],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert "this process lacks CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN (run it as root" in result.stderr


def test_at_a_terminal_it_stays_until_ctrl_c_and_leaves_the_terminal_as_it_was(small, run_dir):
    terminal, theirs = pty.openpty()
    before = termios.tcgetattr(terminal)
    up = subprocess.Popen(
        ["setsid", "--ctty", *command("up", str(small), "--run-dir", str(run_dir))],
        env=environment(TERM="xterm-256color"), stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    try:
        output = _read_until(terminal, b"stays until Ctrl-C")
        output += _read_until(terminal, b"pps")
        os.write(terminal, b"\x03")
        output += _read_until(terminal, None)
        assert termios.tcgetattr(terminal) == before
        assert up.wait(30) == 0
    finally:
        os.close(terminal)
        if up.poll() is None:
            up.kill()
            up.wait()
    assert output.count(b"\x1b[?25l") == output.count(b"\x1b[?25h")  # the cursor is shown again
    assert left_of(NAME, run_dir) == []


def _read_until(terminal, text):
    """Reads until `text` came, or until the program has closed its side."""
    output = b""
    deadline = time.monotonic() + 40
    while text is None or text not in output:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"{text!r} did not come: {output[-2000:]!r}"
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # EIO: the program has ended
            break
        if not piece:
            break
        output += piece
    return output
