"""Gives every workload of a mesh its certificate, where there is no SPIRE.

Serves the SPIFFE Workload API, with each workload on a socket of its own: a program finds its
own by SPIFFE_ENDPOINT_SOCKET, gets an identity in the trust domain, and is told of every renewal.
Whoever can reach a socket is that workload, so put each into a folder that only it can read.

Keys are in memory only: after a restart everybody gets new certificates under a new root.
SIGHUP reads the files of `--federates-with` again.

    vwire authority --workloads /fwd=unix:///run/a/fwd.sock --workloads /nsc=unix:///run/b/nsc.sock
"""

import logging
import signal
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import rich_click as click
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from forwarder import config
from forwarder.api.spiffe_id import SpiffeId
from forwarder.cli import program
from forwarder.cli.options import settings_flags
from forwarder.errors import ConfigError, InvalidRequest
from forwarder.mesh.identity import serve_workloads
from forwarder.rpc import Address
from forwarder.security import Authority

_log = logging.getLogger("vwire")


@click.command(name="authority", help=__doc__)
@settings_flags(config.AuthoritySettings)
def command(**flags: str | None) -> None:
    """Runs `vwire authority`."""
    with program.errors_told("authority"):
        settings = config.load(config.AuthoritySettings, flags)
        program.start("authority", settings)
        authority = Authority(
            settings.trust_domain,
            svid_lifetime_s=settings.svid_lifetime,
            root_lifetime_s=settings.root_lifetime,
            intermediates=settings.intermediates,
        )
        sockets = sockets_of(settings.trust_domain, settings.workloads)
        others = others_of(settings.federates_with)
        federate(authority, others)
        bundle_file = Path(settings.bundle_file) if settings.bundle_file else None
        program.run("authority", run(authority, sockets, others, bundle_file))


def sockets_of(trust_domain: str, texts: Sequence[str]) -> dict[str, str]:
    """Reads `/path=unix:///socket` into SPIFFE ID and URL.

    Raises ConfigError for what is not of this form, for a path that comes twice, and for none at all.
    """
    sockets: dict[str, str] = {}
    for text in texts:
        path, equals, url = text.partition("=")
        name = f"spiffe://{trust_domain}{path}"
        try:
            SpiffeId.parse(name)
            Address.parse(url)
        except InvalidRequest as error:
            raise ConfigError(f"workload {text!r}", detail=str(error), hint="/path=unix:///socket") from error
        if not path.startswith("/") or not equals or name in sockets:
            raise ConfigError(f"workload {text!r}", detail="there is one already" if name in sockets else "no path")
        sockets[name] = url
    if not sockets:
        raise ConfigError("there are no workloads to issue certificates for", hint="--workloads /path=unix:///socket")
    return sockets


def others_of(texts: Sequence[str]) -> dict[str, Path]:
    """Reads `other.org=/file.pem` into trust domain and file.

    Raises ConfigError for what is not of this form.
    """
    others: dict[str, Path] = {}
    for text in texts:
        trust_domain, equals, file = text.partition("=")
        if not trust_domain or not equals or not file:
            raise ConfigError(
                f"federation {text!r}", detail="names no trust domain and file", hint="other.org=/file.pem"
            )
        others[trust_domain] = Path(file)
    return others


def federate(authority: Authority, others: Mapping[str, Path]) -> None:
    """Reads the authorities of the other trust domains; a file that is not there yet makes nobody trusted.

    Raises ConfigError for a file that cannot be used.
    """
    for trust_domain, file in others.items():
        try:
            found = x509.load_pem_x509_certificates(file.read_bytes())
        except FileNotFoundError:
            _log.warning("%s is not there yet: nobody of %s is trusted; SIGHUP reads again", file, trust_domain)
            found = []
        except (OSError, ValueError) as error:
            raise ConfigError(f"bundle {file} of {trust_domain} cannot be used", detail=str(error)) from error
        try:
            authority.federate(trust_domain, [each.public_bytes(Encoding.DER) for each in found])
        except InvalidRequest as error:
            raise ConfigError(f"bundle {file} of {trust_domain} cannot be used", detail=str(error)) from error


def write_bundle(authority: Authority, file: Path) -> None:
    """Writes our authorities as PEM, in one step for whoever reads.

    Raises ConfigError if that fails.
    """
    text = b"".join(x509.load_der_x509_certificate(each).public_bytes(Encoding.PEM) for each in authority.bundle)
    fresh = file.with_name(f".{file.name}.new")
    try:
        fresh.write_bytes(text)
        fresh.replace(file)
    except OSError as error:
        raise ConfigError(f"bundle {file} cannot be written", detail=str(error)) from error


async def run(
    authority: Authority, sockets: Mapping[str, str], others: Mapping[str, Path], bundle_file: Path | None
) -> None:
    """Serves until cancelled."""

    def read_again() -> None:
        _log.info("reading the bundles of other trust domains again")
        try:
            federate(authority, others)
        except ConfigError as error:
            _log.error("%s", error)

    phases = program.Phases()
    program.on_signal(signal.SIGHUP, read_again)
    async with AsyncExitStack() as stack:
        with phases(f"serve {len(sockets)} workloads of {authority.id}"):
            await stack.enter_async_context(serve_workloads(authority, sockets))
        for name, url in sockets.items():
            _log.info("%s: SPIFFE_ENDPOINT_SOCKET=%s", name, url)
        phases.ready("serving")
        async with aclosing(authority.bundles()) as bundles:
            async for _ in bundles:
                if bundle_file is not None:
                    write_bundle(authority, bundle_file)
