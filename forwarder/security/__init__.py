"""Who is who, and who may what: identities, tokens and policies.

A program has a certificate from the Workload API, SPIRE's or that of an authority of ours. Every hop gives
the next one a token signed with it and says when it expires; the path keeps both for each hop, and policies
judge them. A mesh without certificates has tokens that prove nothing.
"""

from forwarder.security.authority import Authority
from forwarder.security.callers import check_caller
from forwarder.security.identity import follow
from forwarder.security.metadata import TokenMetadata, received
from forwarder.security.policies import (
    DENIED,
    NETWORK_SERVICE_CLIENT,
    NETWORK_SERVICE_SERVER,
    REGISTRY_CLIENT,
    REGISTRY_SERVER,
    Policies,
)
from forwarder.security.policy_input import MonitorInput, NetworkServiceInput, RegistryInput
from forwarder.security.rules import owner_of
from forwarder.security.tokens import Claims, SvidTokens, Token, TokenSource, UnsignedTokens, claims
from forwarder.security.workload import Workload

__all__ = [
    "DENIED",
    "NETWORK_SERVICE_CLIENT",
    "NETWORK_SERVICE_SERVER",
    "REGISTRY_CLIENT",
    "REGISTRY_SERVER",
    "Authority",
    "Claims",
    "MonitorInput",
    "NetworkServiceInput",
    "Policies",
    "RegistryInput",
    "SvidTokens",
    "Token",
    "TokenMetadata",
    "TokenSource",
    "UnsignedTokens",
    "Workload",
    "check_caller",
    "claims",
    "follow",
    "owner_of",
    "received",
]
