"""Labels with a meaning of their own."""

from forwarder.api import labels


def test_a_node_adds_what_its_environment_tells() -> None:
    given: dict[str, str] = {}
    labels.add_where_from(given, {"NODE_NAME": "n1", "POD_NAME": "p1", "CLUSTER_NAME": "c1", "HOME": "/"})
    assert given == {"nodeName": "n1", "podName": "p1", "clusterName": "c1"}


def test_a_label_that_is_there_stays() -> None:
    given = {"nodeName": "first", "podName": ""}
    labels.add_where_from(given, {"NODE_NAME": "n1", "POD_NAME": "p1", "CLUSTER_NAME": ""})
    assert given == {"nodeName": "first", "podName": ""}


def test_an_sriov_token_begins_with_its_service_domain() -> None:
    assert labels.service_domain("worker.domain/10G") == "worker.domain"
    assert labels.service_domain("worker.domain") == "worker.domain"
