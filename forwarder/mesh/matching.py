"""Which endpoints of a network service may serve a client. Pure.

A network service may have matches: each says which clients it is for, by their labels, and which
endpoints serve those, by theirs. The first match that is for the client decides.

Source: Network Service Mesh sdk, `pkg/tools/matchutils`.
"""

from collections.abc import Iterable, Mapping, Sequence

from forwarder.api.registry_pb2 import Match, NetworkService, NetworkServiceEndpoint
from forwarder.mesh.label_template import rendered


def match_endpoints(
    labels: Mapping[str, str], service: NetworkService, endpoints: Sequence[NetworkServiceEndpoint]
) -> list[NetworkServiceEndpoint]:
    """Returns the endpoints that may serve a client with `labels`, best first.

    Without matches that is all of them. An endpoint that several routes of a match lead to comes
    once for each. A match that is for the client but leads to nobody ends the search unless it says
    `fallthrough`; one that only tells forwarders apart (metadata without routes) leads to all.
    """
    if not service.matches:
        return list(endpoints)
    for match in service.matches:
        if not is_subset(match.source_selector, labels, labels):
            continue
        found = _routed(match, labels, service.name, endpoints)
        if found or not match.fallthrough:
            if not found and match.HasField("metadata") and not match.routes:
                return list(endpoints)
            return found
    return []


def _routed(
    match: Match, labels: Mapping[str, str], service: str, endpoints: Iterable[NetworkServiceEndpoint]
) -> list[NetworkServiceEndpoint]:
    everyone = [(each, _labels_of(each, service)) for each in endpoints]
    return [
        endpoint
        for route in match.routes
        for endpoint, theirs in everyone
        if is_subset(route.destination_selector, theirs, labels)
    ]


def _labels_of(endpoint: NetworkServiceEndpoint, service: str) -> Mapping[str, str]:
    if service not in endpoint.network_service_labels:  # asking a message map for a key would add it
        return {}
    return endpoint.network_service_labels[service].labels


def is_subset(selector: Mapping[str, str], labels: Mapping[str, str], client: Mapping[str, str]) -> bool:
    """Says whether `labels` have every value of `selector`, as it stands or filled in from `client`'s labels.

    A label that is not there counts as empty, but there have to be as many as the selector has.
    """
    if len(labels) < len(selector):
        return False
    return all(
        labels.get(key, "") == value or labels.get(key, "") == rendered(value, client)
        for key, value in selector.items()
    )


def unexpired(endpoints: Iterable[NetworkServiceEndpoint], now: float) -> list[NetworkServiceEndpoint]:
    """Returns those whose registration has not ended at `now`, in seconds since the epoch, or has no end."""
    return [
        each
        for each in endpoints
        if not each.HasField("expiration_time") or each.expiration_time.ToNanoseconds() > now * 1e9
    ]
