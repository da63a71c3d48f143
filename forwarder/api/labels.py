"""Labels with a meaning of their own."""

from collections.abc import Mapping, MutableMapping
from typing import Final

from forwarder.api import constants

ENVIRONMENT: Final = {
    "NODE_NAME": constants.NODE_NAME,
    "POD_NAME": constants.POD_NAME,
    "CLUSTER_NAME": constants.CLUSTER_NAME,
}
"""Environment variable to the label it fills."""


def add_where_from(labels: MutableMapping[str, str], environment: Mapping[str, str]) -> None:
    """Adds the labels that say where a program runs, as far as its environment tells.

    A label that is there already stays.
    """
    for variable, label in ENVIRONMENT.items():
        value = environment.get(variable, "")
        if value and label not in labels:
            labels[label] = value


def service_domain(sriov_token: str) -> str:
    """Returns the `service.domain` of an `sriovToken` label, which is `service.domain/capability`."""
    return sriov_token.partition("/")[0]
