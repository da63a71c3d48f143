"""Whether a connection that is established is asked about by whoever asked for it.

Policies do not see to that: they check which key signed the caller's token, not whom the token names, and no
signature of the tokens before it. Any workload of the mesh could otherwise take over a connection whose ids
it has seen.
"""

from forwarder.api.spiffe_id import SpiffeId
from forwarder.api.x509 import Peer
from forwarder.errors import NotAuthorized
from forwarder.security.policies import DENIED


def check_caller(asked_by: str, caller: Peer | None) -> None:
    """Returns if `caller` may ask about what the workload with the SPIFFE ID `asked_by` asked for; empty is anybody.

    That is the same workload, or one that may have taken its place: where SPIFFE IDs have folders, one of
    the same. The manager of a node whose pod was replaced goes on for its clients with the certificate of
    another pod, `/ns/nsm-system/pod/nsmgr-x2d9k` where it was `/ns/nsm-system/pod/nsmgr-7tlpx`.
    Raises NotAuthorized.
    """
    if not asked_by or caller is None or caller.identity == asked_by:
        return
    folder = _folder(asked_by)
    if not folder or _folder(caller.identity) != folder:
        raise NotAuthorized(DENIED, detail=f"the connection was asked for by {asked_by}, not by {caller.identity}")


def _folder(identity: str) -> str:
    """Returns all but the last part of an ID, empty if its path has only one."""
    found = SpiffeId.parse(identity)
    above = found.path.rpartition("/")[0]
    return f"spiffe://{found.trust_domain}{above}" if above else ""
