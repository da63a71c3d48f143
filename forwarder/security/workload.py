"""What the Workload API tells one workload: its SVID, renewed at half of its life, and whom to trust."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from forwarder.api.spiffe_id import SpiffeId
from forwarder.api.workload_pb2 import X509SVID, X509BundlesResponse, X509SVIDResponse
from forwarder.api.x509 import Svid
from forwarder.security.authority import Authority


class Workload:
    """A workload of an authority, as `rpc.workload_api` serves it: everybody who asks is this workload."""

    def __init__(self, authority: Authority, identity: SpiffeId) -> None:
        """Issues the first SVID.

        Raises ConfigError if the authority does not issue any for `identity`.
        """
        self._authority = authority
        self._identity = identity
        self._renew()

    async def svids(self) -> AsyncGenerator[X509SVIDResponse, None]:
        """Yields the SVID and every bundle, and both again when either changes."""
        last = None
        while True:
            self._authority.step()
            changed = self._authority.changed
            if self._authority.clock.now() >= self._renew_at or self._bundle != self._authority.bundle:
                self._renew()
            answer = X509SVIDResponse(
                svids=[
                    X509SVID(
                        spiffe_id=self._svid.identity,
                        x509_svid=b"".join(self._svid.certificates),
                        x509_svid_key=self._svid.private_key,
                        bundle=b"".join(self._authority.bundle),
                    )
                ],
                federated_bundles=_by_id(self._authority.federated),
            )
            if answer != last:
                yield answer
            last = answer
            await self._authority.wait(self._renew_at, changed)

    async def bundles(self) -> AsyncGenerator[X509BundlesResponse, None]:
        """Yields every bundle, and again when one changes."""
        async with aclosing(self._authority.bundles()) as bundles:
            async for told in bundles:
                yield X509BundlesResponse(bundles=_by_id(told))

    def _renew(self) -> None:
        self._svid: Svid = self._authority.issue(self._identity)
        self._bundle = self._authority.bundle
        self._renew_at = self._authority.clock.now() + self._authority.svid_lifetime_s / 2


def _by_id(bundles: Mapping[str, tuple[bytes, ...]]) -> dict[str, bytes]:
    return {f"spiffe://{trust_domain}": b"".join(certificates) for trust_domain, certificates in bundles.items()}
