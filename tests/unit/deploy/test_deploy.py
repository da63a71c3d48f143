"""What operators deploy by is valid for its readers, and names what the forwarder has."""

import re
import subprocess

import kubernetes_validate
import pytest
import yaml

from forwarder import config
from tests.support.peers import require_program
from tests.support.programs import ROOT

FOLDER = ROOT / "deploy"
FORWARDER = yaml.safe_load((FOLDER / "kubernetes/forwarder.yaml").read_text())
CONTAINER = FORWARDER["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_the_manifest_is_what_kubernetes_defines(version):
    kubernetes_validate.validate(FORWARDER, version, strict=True)


def test_the_kustomization_names_what_is_there():
    kustomization = yaml.safe_load((FOLDER / "kubernetes/kustomization.yaml").read_text())
    assert all((FOLDER / "kubernetes" / name).is_file() for name in kustomization["resources"])
    assert [image["name"] for image in kustomization["images"]] == [CONTAINER["image"]]


def test_every_variable_of_the_manifest_is_a_setting():
    known = {config.variable(name, field) for name, field in config.ForwarderSettings.model_fields.items()}
    assert {entry["name"] for entry in CONTAINER["env"]} <= known | {"SPIFFE_ENDPOINT_SOCKET"}


def test_every_probe_asks_the_socket_that_is_listened_on():
    listen_on = next(entry["value"] for entry in CONTAINER["env"] if entry["name"] == "NSM_LISTEN_ON")
    for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
        assert CONTAINER[probe]["exec"]["command"] == ["/bin/grpc-health-probe", "-spiffe", f"-addr={listen_on}"]


def test_whatever_is_written_has_a_mount():
    mounts = {mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    listen_on = next(entry["value"] for entry in CONTAINER["env"] if entry["name"] == "NSM_LISTEN_ON")
    assert {listen_on.removeprefix("unix://").rpartition("/")[0], "/tmp"} <= mounts


def test_the_unit_is_what_systemd_defines(tmp_path):
    text = (FOLDER / "systemd/vwire-forwarder.service").read_text()
    copy = tmp_path / "vwire-forwarder.service"
    copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    analyze = require_program("systemd-analyze", package="systemd")
    told = subprocess.run([analyze, "verify", "--man=no", copy], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")


def test_the_image_holds_what_the_build_needs():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for line in re.findall(r"^COPY --chown=build (.+)$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE):
        copied |= set(line.split()[:-1])
    assert copied == kept
