"""Who is who: tokens, their place in RPC metadata, and their expiry.

Every hop gives the next one a token and says when it expires; the path keeps both for each hop.
Here is how they are written and read, and the source of tokens for a mesh without certificates.
Certificates (SPIFFE), signed tokens and policies have their place in this room.
"""

from forwarder.security.authority import Authority
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
    "claims",
    "follow",
    "owner_of",
    "received",
]
