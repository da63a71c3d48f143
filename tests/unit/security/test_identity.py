"""Following the Workload API: what is taken from it, what is refused, and what happens when it is away."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from forwarder.api.spiffe_id import SpiffeId
from forwarder.api.workload_pb2 import X509SVID, X509SVIDResponse
from forwarder.api.x509 import Identity
from forwarder.errors import ConfigError, InvalidRequest, NextHopError
from forwarder.security import Authority, follow
from forwarder.security.identity import read
from tests.support.certificates import pkcs8, self_signed
from tests.support.clock import TurnedClock, settle

AUTHORITY = Authority("example.org", intermediates=1)
OTHER = Authority("other.org")
NAME = "spiffe://example.org/fwd"


def answer(authority: Authority = AUTHORITY, name: str = NAME) -> X509SVIDResponse:
    """Makes what the Workload API says of a workload, with a new SVID."""
    made = authority.issue(SpiffeId.parse(name))
    return X509SVIDResponse(
        svids=[
            X509SVID(
                spiffe_id=made.identity,
                x509_svid=b"".join(made.certificates),
                x509_svid_key=made.private_key,
                bundle=b"".join(authority.bundle),
            )
        ]
    )


def with_key(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> X509SVIDResponse:
    return X509SVIDResponse(
        svids=[X509SVID(spiffe_id=NAME, x509_svid=self_signed(key, [NAME]), x509_svid_key=pkcs8(key))]
    )


class Api:
    """A Workload API in memory: says what it is told to, or fails."""

    def __init__(self) -> None:
        self.says: asyncio.Queue[X509SVIDResponse | NextHopError | None] = asyncio.Queue()
        self.connected = 0

    @asynccontextmanager
    async def connect(self) -> AsyncIterator["Api"]:
        self.connected += 1
        yield self

    @asynccontextmanager
    async def svids(self) -> AsyncIterator[AsyncIterator[X509SVIDResponse]]:
        yield self._answers()

    async def _answers(self) -> AsyncIterator[X509SVIDResponse]:
        while (said := await self.says.get()) is not None:
            if isinstance(said, NextHopError):
                raise said
            yield said


AWAY = NextHopError("dial unix:///agent.sock", status="UNAVAILABLE", detail="Connection refused")
UNKNOWN = NextHopError("FetchX509SVID failed", status="PERMISSION_DENIED", detail="no identity issued")


def test_the_first_svid_and_every_bundle_are_taken() -> None:
    said = answer()
    said.svids.append(answer(OTHER, "spiffe://other.org/second").svids[0])
    said.federated_bundles["spiffe://third.org"] = b"".join(Authority("third.org").bundle)
    told = read(said)
    assert told.svid.identity == NAME
    assert len(told.svid.certificates) == 2
    assert b"".join(told.svid.certificates) == said.svids[0].x509_svid
    assert told.bundles.keys() == {"example.org", "other.org", "third.org"}
    assert told.bundles["example.org"] == AUTHORITY.bundle


P256 = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"spiffe_id": "spiffe://example.org/nsc"}, "has the certificate of"),
        ({"spiffe_id": "fwd"}, "SPIFFE ID 'fwd'"),
        ({"x509_svid": b""}, "has no certificate"),
        ({"x509_svid": b"\x30\x03abc"}, "cannot be read"),
        ({"x509_svid": b"\x30\x82\xff\xff"}, "no whole certificate at byte 0"),
        ({"x509_svid_key": b""}, "private key of"),
        ({"x509_svid_key": pkcs8(P256)}, "a key that is not its certificate's"),
        ({"bundle": b"\x31\x00"}, "the bundle of"),
        ({"x509_svid": self_signed(P256), "x509_svid_key": pkcs8(P256)}, "with 0 URIs"),
        ({"x509_svid": self_signed(P256, [NAME, NAME]), "x509_svid_key": pkcs8(P256)}, "with 2 URIs"),
        ({"x509_svid": self_signed(P256, [NAME], ca=True), "x509_svid_key": pkcs8(P256)}, "may sign others"),
        ({"x509_svid": self_signed(P256, [NAME], may_sign=True), "x509_svid_key": pkcs8(P256)}, "may sign others"),
    ],
)
def test_an_answer_that_contradicts_itself_is_refused(change: dict[str, bytes | str], told: str) -> None:
    said = answer()
    said.svids[0].MergeFrom(X509SVID(**change))  # type: ignore[arg-type]
    for name, value in change.items():
        setattr(said.svids[0], name, value)
    with pytest.raises(InvalidRequest, match=told):
        read(said)


def test_an_answer_without_svid_and_a_bundle_of_a_workload_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="no SVID"):
        read(X509SVIDResponse())
    said = answer()
    said.federated_bundles["spiffe://other.org/x"] = b"".join(OTHER.bundle)
    with pytest.raises(InvalidRequest, match="not a trust domain"):
        read(said)


@pytest.mark.parametrize(
    ("key", "kind"),
    [(rsa.generate_private_key(65537, 2048), "RSA"), (ec.generate_private_key(ec.SECP384R1()), "secp384r1")],
)
async def test_a_key_that_cannot_sign_tokens_is_refused_with_what_to_do(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, kind: str
) -> None:
    api = Api()
    api.says.put_nowait(with_key(key))
    with pytest.raises(ConfigError, match=f"kind {kind}.*ES256.*P-256.*ec-p256"):
        async with follow(api.connect, clock=TurnedClock()):
            pytest.fail("there is an identity")


async def test_a_request_that_is_called_invalid_is_not_repeated() -> None:
    api = Api()
    api.says.put_nowait(NextHopError("FetchX509SVID", status="INVALID_ARGUMENT"))
    with pytest.raises(NextHopError):
        async with follow(api.connect, clock=TurnedClock()):
            pytest.fail("there is an identity")


class Program:
    """Follows an API and remembers the identity once it has one."""

    def __init__(self, api: Api, clock: TurnedClock) -> None:
        self.identity: Identity | None = None
        self._task = asyncio.create_task(self._run(api, clock))

    async def _run(self, api: Api, clock: TurnedClock) -> None:
        async with follow(api.connect, clock=clock) as self.identity:
            await asyncio.Event().wait()

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


async def test_a_program_waits_for_its_svid_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    api, clock = Api(), TurnedClock()
    program = Program(api, clock)
    for said in (AWAY, UNKNOWN):
        api.says.put_nowait(said)
    with caplog.at_level(logging.INFO):
        await clock.advance(0.5 + 1.0)
    assert program.identity is None
    assert api.connected == 3
    assert "waiting for an SVID: dial unix:///agent.sock: Connection refused; next attempt in 0.5 s" in caplog.text
    assert "no identity issued; next attempt in 1 s" in caplog.text
    api.says.put_nowait(answer())
    with caplog.at_level(logging.INFO):
        await settle()
    assert program.identity is not None
    assert program.identity.svid.identity == NAME
    assert f"identity {NAME} until 20" in caplog.text
    await program.end()


async def test_pauses_grow_to_half_a_minute_and_are_short_again_after_an_answer() -> None:
    api, clock = Api(), TurnedClock()
    program = Program(api, clock)
    for pause in (0.5, 1, 2, 4, 8, 16, 30, 30):
        connected = api.connected
        api.says.put_nowait(AWAY)
        await clock.advance(pause - 0.25)
        assert api.connected == max(connected, 1)
        await clock.advance(0.25)
        assert api.connected == max(connected, 1) + 1
    for said in (answer(), AWAY):
        api.says.put_nowait(said)
    connected = api.connected
    await clock.advance(0.5)
    assert api.connected == connected + 1
    await program.end()


async def test_renewals_and_bundles_are_followed_and_the_last_stays_while_the_api_is_away() -> None:
    api, clock = Api(), TurnedClock()
    program = Program(api, clock)
    api.says.put_nowait(answer())
    await settle()
    assert program.identity is not None
    first = program.identity.svid
    api.says.put_nowait(None)
    await settle()
    assert program.identity.svid == first
    second = answer()
    second.federated_bundles["spiffe://other.org"] = b"".join(OTHER.bundle)
    api.says.put_nowait(second)
    await clock.advance(0.5)
    assert program.identity.svid == read(second).svid != first
    assert program.identity.bundles == {"example.org": AUTHORITY.bundle, "other.org": OTHER.bundle}
    await program.end()


async def test_a_later_answer_that_cannot_be_used_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    api, clock = Api(), TurnedClock()
    program = Program(api, clock)
    api.says.put_nowait(answer())
    await settle()
    assert program.identity is not None
    first, bundles = program.identity.svid, program.identity.bundles
    api.says.put_nowait(with_key(rsa.generate_private_key(65537, 2048)))
    api.says.put_nowait(X509SVIDResponse())
    await settle()
    assert (program.identity.svid, program.identity.bundles) == (first, bundles)
    assert "the last SVID stays in use: the SVID of spiffe://example.org/fwd has a key of kind RSA" in caplog.text
    assert "the Workload API's answer has no SVID" in caplog.text
    assert api.connected == 1
    await program.end()
