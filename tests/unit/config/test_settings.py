"""Settings come from flags, then the environment, then defaults, and explain themselves."""

import re
from pathlib import Path

import pytest
from pydantic import Field

from forwarder import config
from forwarder.errors import ConfigError


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for program in config.PROGRAMS.values():
        for name, field in program.model_fields.items():
            monkeypatch.delenv(config.variable(name, field), raising=False)


def test_names_and_defaults_are_those_of_nsm():
    forwarder = config.effective(config.load(config.ForwarderSettings))
    assert forwarder["NSM_NAME"] == "forwarder"
    assert forwarder["NSM_LISTEN_ON"] == "unix:///listen.on.socket"
    assert forwarder["NSM_DIAL_TIMEOUT"] == "750ms"
    assert forwarder["NSM_MAX_TOKEN_LIFETIME"] == "10m"
    client = config.effective(config.load(config.ClientSettings))
    assert client["NSM_CONNECT_TO"] == "unix:///var/lib/networkservicemesh/nsm.io.sock"
    assert client["NSM_DIAL_TIMEOUT"] == "5s"
    assert client["NSM_REQUEST_TIMEOUT"] == "15s"
    endpoint = config.effective(config.load(config.EndpointSettings))
    assert endpoint["NSM_SERVICE_NAMES"] == "icmp-responder"
    assert endpoint["NSM_CIDR_PREFIX"] == "169.254.0.0/16"
    assert endpoint["NSM_IPAM_POLICY"] == "polite"


def test_a_flag_wins_over_the_environment_and_that_over_the_default(monkeypatch):
    monkeypatch.setenv("NSM_NAME", "from-environment")
    monkeypatch.setenv("NSM_DIAL_TIMEOUT", "2s")
    settings = config.load(config.ForwarderSettings, {"name": "from-flag", "dial_timeout": None})
    assert settings.name == "from-flag"
    assert settings.dial_timeout == 2.0
    assert settings.max_token_lifetime == 600.0


def test_a_variable_without_prefix_is_read_and_can_be_a_flag(monkeypatch):
    monkeypatch.setenv("NODE_NAME", "worker-1")
    assert config.load(config.ClientSettings).node_name == "worker-1"
    assert config.load(config.ClientSettings, {"node_name": "worker-2"}).node_name == "worker-2"


def test_lists_maps_and_groups_come_from_one_variable(monkeypatch):
    monkeypatch.setenv("NSM_MECHANISM_PRIORITY", "memif,Kernel")
    monkeypatch.setenv("NSM_WORKER_CPUS", "0,2-4")
    settings = config.load(config.ForwarderSettings)
    assert settings.mechanism_priority == ("memif", "Kernel")
    assert settings.worker_cpus == (0, 2, 3, 4)
    monkeypatch.setenv("NSM_MECHANISMS", "memif,Kernel")
    assert config.load(config.EndpointSettings).mechanisms == ("MEMIF", "KERNEL")
    monkeypatch.setenv("NSM_CIDR_PREFIX", "[10.0.0.0/31,10.1.0.0/31],fd00::/64")
    assert config.load(config.EndpointSettings).cidr_prefix == (("10.0.0.0/31", "10.1.0.0/31"), ("fd00::/64",))


@pytest.mark.parametrize(
    ("program", "variable", "value", "reason"),
    [
        ("forwarder", "NSM_DIAL_TIMEOUT", "soon", "not a duration"),
        ("forwarder", "NSM_DIAL_TIMEOUT", "0s", "greater than 0"),
        ("forwarder", "NSM_DIAL_TIMEOUT", "-1s", "greater than 0"),
        ("forwarder", "NSM_WORKERS", "many", "integer"),
        ("forwarder", "NSM_WORKER_CPUS", "a-b", "invalid literal"),
        ("forwarder", "NSM_LOG_LEVEL", "LOUD", "not one of TRACE"),
        ("forwarder", "NSM_NAME", "", "at least 1"),
        ("endpoint", "NSM_CIDR_PREFIX", "[10.0.0.0/8", "not closed"),
        ("endpoint", "NSM_MECHANISMS", "KERNEL,SMOKE", "'KERNEL' or 'MEMIF'"),
        ("endpoint", "NSM_MECHANISMS", "", "at least 1"),
        ("endpoint", "NSM_PAYLOAD", "SMOKE", "'ETHERNET' or 'IP'"),
        ("endpoint", "NSM_DNS_CONFIGS", "{", "not JSON"),
        ("endpoint", "NSM_DNS_CONFIGS", '[{"server": 1}]', "keys"),
    ],
)
def test_an_error_names_the_variable_and_its_value(monkeypatch, program, variable, value, reason):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as caught:
        config.load(config.PROGRAMS[program])
    assert f"{variable}={value!r}" in str(caught.value)
    assert reason in str(caught.value)


def test_an_error_names_the_flag_when_that_was_given():
    with pytest.raises(ConfigError, match=re.escape("--dial-timeout='soon' cannot be used")):
        config.load(config.ForwarderSettings, {"dial_timeout": "soon"})


def test_every_wrong_setting_is_named_at_once(monkeypatch):
    monkeypatch.setenv("NSM_DIAL_TIMEOUT", "soon")
    monkeypatch.setenv("NSM_WORKERS", "0")
    with pytest.raises(ConfigError, match=r"NSM_WORKERS=.*NSM_DIAL_TIMEOUT="):
        config.load(config.ForwarderSettings)


def test_settings_cannot_be_changed():
    settings = config.load(config.ForwarderSettings)
    with pytest.raises(ValueError, match="frozen"):
        settings.name = "other"


class _WithSecret(config.Settings):
    password: config.Secret = Field(config.Secret(""), description="a password")


def test_secrets_are_stars(monkeypatch):
    monkeypatch.setenv("NSM_PASSWORD", "hunter2")
    settings = config.load(_WithSecret)
    assert settings.password.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(settings) + str(config.effective(settings))
    assert config.effective(settings)["NSM_PASSWORD"] == "**********"


def test_variables_without_effect_are_told_with_a_reason():
    reasons = config.ignored(
        "forwarder", {"NSM_VPP_INIT": "AF_XDP", "NSM_TYPO": "1", "NSM_NAME": "x", "HOME": "/", "TELEMETRY": "1"}
    )
    assert set(reasons) == {"NSM_VPP_INIT", "NSM_TYPO", "TELEMETRY"}
    assert "VPP" in reasons["NSM_VPP_INIT"]
    assert "no such setting" in reasons["NSM_TYPO"]


def test_what_is_switched_off_or_empty_needs_no_warning():
    assert (
        config.ignored("forwarder", {"TELEMETRY": "false", "NSM_PPROF_ENABLED": "0", "NSM_VPP_INIT_PARAMS": ""}) == {}
    )


P_CLIENT = "etc/nsm/opa/common/.*.rego,etc/nsm/opa/registry/.*.rego,etc/nsm/opa/client/.*.rego"
FORWARDER_VPP = {
    "NSM_NAME": "forwarder",
    "NSM_LABELS": "p2p:true",
    "NSM_NSNAME": "forwarder",
    "NSM_CONNECT_TO": "unix:///connect.to.socket",
    "NSM_LISTEN_ON": "unix:///listen.on.socket",
    "NSM_MAX_TOKEN_LIFETIME": "10m",
    "NSM_REGISTRY_CLIENT_POLICIES": P_CLIENT,
    "NSM_LOG_LEVEL": "INFO",
    "NSM_DIAL_TIMEOUT": "750ms",
    "NSM_OPEN_TELEMETRY_ENDPOINT": "otel-collector.observability.svc.cluster.local:4317",
    "NSM_METRICS_EXPORT_INTERVAL": "10s",
    "NSM_PPROF_ENABLED": "false",
    "NSM_PPROF_LISTEN_ON": "localhost:6060",
    "NSM_PROMETHEUS_LISTEN_ON": ":8081",
    "NSM_PROMETHEUS_CA_FILE": "",
    "NSM_PROMETHEUS_KEY_FILE": "",
    "NSM_PROMETHEUS_CERT_FILE": "",
    "NSM_PROMETHEUS_MONITOR_CERTIFICATE": "false",
    "NSM_PROMETHEUS_SERVER_HEADER_TIMEOUT": "5s",
    "NSM_PROMETHEUS_MAX_BIND_THRESHOLD": "120s",
    "NSM_TUNNEL_IP": "",
    "NSM_VXLAN_PORT": "0",
    "NSM_VPP_API_SOCKET": "/var/run/vpp/external/vpp-api.sock",
    "NSM_VPP_INIT": "AF_PACKET",
    "NSM_VPP_INIT_PARAMS": "",
    "NSM_VPP_MIN_OPERATION_TIMEOUT": "2s",
    "NSM_RESOURCE_POLL_TIMEOUT": "30s",
    "NSM_DEVICE_PLUGIN_PATH": "/var/lib/kubelet/device-plugins/",
    "NSM_POD_RESOURCES_PATH": "/var/lib/kubelet/pod-resources/",
    "NSM_DEVICE_SELECTOR_FILE": "",
    "NSM_SRIOV_CONFIG_FILE": "",
    "NSM_PCI_DEVICES_PATH": "/sys/bus/pci/devices",
    "NSM_PCI_DRIVERS_PATH": "/sys/bus/pci/drivers",
    "NSM_CGROUP_PATH": "/host/sys/fs/cgroup/devices",
    "NSM_VFIO_PATH": "/host/dev/vfio",
    "NSM_MECHANISM_PRIORITY": "",
    "TELEMETRY": "false",
    "PROMETHEUS": "false",
    "PROMETHEUS_METRICS_PREFIX": "",
    "SPIFFE_ENDPOINT_SOCKET": "",
}
"""Every variable of forwarder-vpp with its default."""


@pytest.mark.parametrize("variable", FORWARDER_VPP)
def test_a_variable_of_forwarder_vpp_has_its_default_or_a_reason_why_it_has_no_effect(monkeypatch, variable):
    shown = {row.variable: row.default for row in config.describe(config.ForwarderSettings)}
    if variable in shown:
        assert shown[variable] == FORWARDER_VPP[variable]
        monkeypatch.setenv(variable, FORWARDER_VPP[variable])
        assert config.load(config.ForwarderSettings) == config.ForwarderSettings()
    else:
        assert config.IGNORED["forwarder"][variable]


def test_what_nsm_s_deployment_sets_is_taken(monkeypatch):
    given = {
        "SPIFFE_ENDPOINT_SOCKET": "unix:///run/spire/sockets/agent.sock",
        "NSM_LOG_LEVEL": "TRACE",
        "NSM_CONNECT_TO": "unix:///var/lib/networkservicemesh/nsm.io.sock",
        "NSM_LISTEN_ON": "unix:///listen.on.sock",
        "NSM_NAME": "forwarder-vpp-x2x4z",
        "NSM_PPROF_ENABLED": "true",
        "NSM_PPROF_LISTEN_ON": "localhost:6060",
        "NSM_LABELS": "p2p:true,my_cap:true",
        "NSM_MECHANISM_PRIORITY": "KERNEL,memif",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = config.load(config.ForwarderSettings)
    assert settings.labels == {"p2p": "true", "my_cap": "true"}
    assert settings.mechanism_priority == ("KERNEL", "memif")
    assert set(config.ignored("forwarder", given)) == {"NSM_PPROF_ENABLED", "NSM_PPROF_LISTEN_ON"}


def test_what_is_ignored_is_no_setting():
    for program, settings in config.PROGRAMS.items():
        known = {config.variable(name, field) for name, field in settings.model_fields.items()}
        assert known.isdisjoint(config.IGNORED[program])


def test_every_setting_has_a_description():
    for settings in config.PROGRAMS.values():
        assert all(row.description for row in config.describe(settings))


@pytest.mark.parametrize("program", config.PROGRAMS)
def test_the_defaults_shown_can_be_set(monkeypatch, program):
    settings = config.PROGRAMS[program]
    for row in config.describe(settings):
        monkeypatch.setenv(row.variable, row.default)
    assert config.load(settings) == settings.model_construct()


def test_the_table_has_a_row_per_setting():
    table = config.settings_table(config.ForwarderSettings)
    assert "| `NSM_DIAL_TIMEOUT` | `--dial-timeout` | `750ms` |" in table
    assert table.count("\n") == 2 + len(config.ForwarderSettings.model_fields)


def test_tables_in_a_document_are_renewed_in_place():
    document = "before\n<!-- settings:client -->\nold\n<!-- /settings -->\nafter\n"
    renewed = config.write_tables(document)
    assert renewed.startswith("before\n")
    assert renewed.endswith("after\n")
    assert config.settings_table(config.ClientSettings) in renewed
    assert config.write_tables(renewed) == renewed


def test_a_table_of_an_unknown_program_is_an_error():
    with pytest.raises(ConfigError, match="no such program"):
        config.write_tables("<!-- settings:nobody -->\n<!-- /settings -->")


def test_the_readme_has_the_tables_as_they_are():
    readme = Path(__file__).parents[3] / "README.md"
    if not readme.exists() or "<!-- settings:" not in readme.read_text():
        pytest.skip("README.md has no settings table")
    text = readme.read_text()
    assert config.write_tables(text) == text
