"""The embedded authority: certificates that verify, in time, for whom they are meant."""

import asyncio

import pytest
from cryptography import x509

from forwarder.api.spiffe_id import SpiffeId
from forwarder.api.workload_pb2 import X509SVIDResponse
from forwarder.errors import ConfigError, InvalidRequest
from forwarder.security import Authority, Workload
from forwarder.security.identity import read
from tests.support.certificates import ends, verifies
from tests.support.clock import TurnedClock, settle

FWD = SpiffeId.parse("spiffe://example.org/fwd")
HOUR = 3600.0


def authority(clock: TurnedClock, **arguments: float) -> Authority:
    return Authority("example.org", svid_lifetime_s=HOUR, root_lifetime_s=6 * HOUR, clock=clock, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("intermediates", [0, 1, 3])
def test_an_svid_leads_to_the_bundle_through_its_intermediates(intermediates: int) -> None:
    clock = TurnedClock()
    made = authority(clock, intermediates=intermediates)
    svid = made.issue(FWD)
    assert svid.identity == "spiffe://example.org/fwd"
    assert len(svid.certificates) == 1 + intermediates
    assert verifies(svid, made.bundle, clock.now())
    assert not verifies(svid, authority(clock).bundle, clock.now())


def test_an_svid_is_a_leaf_with_one_name_as_spiffe_has_it() -> None:
    leaf = x509.load_der_x509_certificate(authority(TurnedClock()).issue(FWD).certificates[0])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier("spiffe://example.org/fwd")]
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_an_svid_is_good_for_its_lifetime_and_not_longer() -> None:
    clock = TurnedClock()
    made = authority(clock)
    svid = made.issue(FWD)
    assert verifies(svid, made.bundle, clock.now() + HOUR - 1)
    assert not verifies(svid, made.bundle, clock.now() + HOUR + 1)


async def test_at_any_time_an_svid_verifies_with_what_was_trusted_a_twelfth_of_a_root_earlier() -> None:
    clock = TurnedClock()
    made = authority(clock)
    first = made.bundle
    trusted = first
    for _ in range(60):  # five roots
        await clock.advance(HOUR / 2)
        svid = made.issue(FWD)
        assert verifies(svid, trusted, clock.now())
        assert ends(svid.certificates[0]) == clock.now() + HOUR
        trusted = made.bundle
        assert 1 <= len(trusted) <= 2
    assert not set(first) & set(trusted)


def test_a_root_that_was_lost_is_replaced_at_once() -> None:
    clock = TurnedClock()
    made = authority(clock)
    old, changed = made.issue(FWD), made.changed
    made.rotate()
    assert changed.is_set()
    assert not verifies(old, made.bundle, clock.now())
    assert verifies(made.issue(FWD), made.bundle, clock.now())


@pytest.mark.parametrize("text", ["spiffe://other.org/fwd", "spiffe://example.org"])
def test_nobody_else_s_svid_is_issued(text: str) -> None:
    with pytest.raises(ConfigError, match="issues no SVID for"):
        authority(TurnedClock()).issue(SpiffeId.parse(text))


@pytest.mark.parametrize("trust_domain", ["", "Example.org", "example.org/x", "a b"])
def test_what_is_no_trust_domain_has_no_authority(trust_domain: str) -> None:
    with pytest.raises((ConfigError, InvalidRequest)):
        Authority(trust_domain)


def test_svids_do_not_outlive_roots() -> None:
    with pytest.raises(ConfigError, match="three times"):
        Authority("example.org", svid_lifetime_s=HOUR, root_lifetime_s=2 * HOUR)


def test_others_are_trusted_until_they_are_not() -> None:
    made, other = authority(TurnedClock()), Authority("other.org")
    changed = made.changed
    made.federate("other.org", other.bundle)
    assert made.federated == {"other.org": other.bundle}
    assert changed.is_set()
    changed = made.changed
    made.federate("other.org", other.bundle)
    assert not changed.is_set()
    made.federate("other.org", [])
    assert made.federated == {}
    assert changed.is_set()


def test_what_is_no_other_trust_domain_or_no_certificate_is_not_trusted() -> None:
    made = authority(TurnedClock())
    with pytest.raises(ConfigError):
        made.federate("example.org", made.bundle)
    with pytest.raises(InvalidRequest):
        made.federate("Other", made.bundle)
    with pytest.raises(InvalidRequest):
        made.federate("other.org", [b"\x30\x00"])
    assert made.federated == {}


class Answers:
    """Collects what a workload is told."""

    def __init__(self, workload: Workload) -> None:
        self.told: list[X509SVIDResponse] = []
        self._task = asyncio.create_task(self._collect(workload))

    async def _collect(self, workload: Workload) -> None:
        async for answer in workload.svids():
            self.told.append(answer)

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


async def test_a_workload_is_told_a_new_svid_at_half_of_its_life_and_roots_when_they_change() -> None:
    clock = TurnedClock()
    made = authority(clock)
    answers = Answers(Workload(made, FWD))
    await settle()
    assert len(answers.told) == 1
    await clock.advance(HOUR / 2 - 1)
    assert len(answers.told) == 1
    await clock.advance(1)
    assert len(answers.told) == 2
    assert read(answers.told[0]).svid != read(answers.told[1]).svid
    made.federate("other.org", Authority("other.org").bundle)
    await settle()
    assert len(answers.told) == 3
    assert read(answers.told[2]).bundles.keys() == {"example.org", "other.org"}
    assert read(answers.told[2]).svid == read(answers.told[1]).svid
    made.rotate()
    await settle()
    assert read(answers.told[3]).bundles["example.org"] == made.bundle
    assert verifies(read(answers.told[3]).svid, made.bundle, clock.now())
    await answers.end()


async def test_all_who_ask_for_a_workload_get_the_same_svid() -> None:
    made = authority(TurnedClock())
    workload = Workload(made, FWD)
    one, two = Answers(workload), Answers(workload)
    await settle()
    assert one.told == two.told
    await one.end()
    await two.end()


async def test_bundles_are_told_when_they_change() -> None:
    clock = TurnedClock()
    made = authority(clock)
    bundles = Workload(made, FWD).bundles()
    assert dict((await anext(bundles)).bundles) == {"spiffe://example.org": b"".join(made.bundle)}
    coming = asyncio.create_task(anext(bundles))
    await settle()
    assert not coming.done()
    await clock.advance(3 * HOUR)  # the next root is announced
    assert len(made.bundle) == 2
    assert dict((await coming).bundles) == {"spiffe://example.org": b"".join(made.bundle)}
    await bundles.aclose()
