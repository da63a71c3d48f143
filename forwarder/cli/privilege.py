"""Says plainly which privilege is missing, before anything is tried."""

from pathlib import Path
from typing import Final

from forwarder.errors import ConfigError

CAPABILITIES: Final = {12: "CAP_NET_ADMIN", 13: "CAP_NET_RAW", 21: "CAP_SYS_ADMIN"}
"""What making and entering namespaces, making links and reading their frames takes (linux/capability.h)."""


def missing(status: str) -> list[str]:
    """Returns the capabilities that a process with this /proc/PID/status does not have in force."""
    line = next((line for line in status.splitlines() if line.startswith("CapEff:")), "CapEff: 0")
    effective = int(line.split()[1], 16)
    return [name for bit, name in CAPABILITIES.items() if not effective >> bit & 1]


def need_privilege(program: str) -> None:
    """Raises ConfigError unless this process may make network namespaces and interfaces."""
    if lacking := missing(Path("/proc/self/status").read_text(encoding="ascii", errors="replace")):
        raise ConfigError(
            f"vwire {program} makes network interfaces in network namespaces and may not",
            detail=f"this process lacks {', '.join(lacking)}",
            hint="run it as root, or give it these capabilities",
        )
