"""What an earlier process left is removed after a time of grace, and nothing that is anybody else's."""

from contextlib import AsyncExitStack, ExitStack

import pytest

from forwarder.api.context import Side
from forwarder.mechanisms.kernel import KernelMechanism
from forwarder.mechanisms.owner import Owner
from forwarder.mechanisms.reconciler import Reconciler
from forwarder.netns import run_in
from tests.dataplane.test_mechanism_kernel import NoPorts, asked, our_links, policy
from tests.support.domain import pod
from tests.support.netns import Netns

GRACE_S = 100.0


@pytest.fixture
def named_netns():
    """A namespace that is found by its name, as a pod's is by its processes."""
    with pod() as made:
        yield Netns(made.fileno())


@pytest.fixture
def lives():
    """Makes the mechanism of a forwarder as each of its processes would; one that is made ends none."""
    with ExitStack() as stack:

        def live(name: str) -> KernelMechanism:
            return stack.enter_context(KernelMechanism(NoPorts(), stack.enter_context(Owner(name))))

        yield live


async def look(kernel: KernelMechanism, *moments: float) -> int:
    return await look_with(Reconciler(kernel.tools, grace_s=GRACE_S), *moments)


async def look_with(reconciler: Reconciler, *moments: float) -> int:
    return sum([await run_in(None, lambda now=now: reconciler.look(now)) for now in moments])


async def leave(kernel: KernelMechanism, *wanted):
    """Makes interfaces and ends as a killed process does."""
    kernel.keep()
    async with AsyncExitStack() as stack:
        for each in wanted:
            await stack.enter_async_context(kernel.open(Side.CLIENT, each))
    kernel.tools.owner.close()


def by_name(netns: Netns, name: str = "nsm-1", **more: str):
    """A connection whose namespace has a path, by which it is found."""
    given = asked(netns, name, origin=name, **more)
    policy(given, "172.16.1.101/32", (("10.8.0.0/16", ""),))
    return given


async def test_an_orphan_is_removed_with_its_rules_after_the_time_of_grace(lives, named_netns: Netns):
    before = named_netns.run("ip", "rule").stdout
    await leave(lives("a"), by_name(named_netns))
    assert await look(lives("b"), 0.0, GRACE_S) == 0
    reconciler = Reconciler(lives("a").tools, grace_s=GRACE_S)
    assert await look_with(reconciler, 0.0, GRACE_S / 2, GRACE_S - 1) == 0
    assert len(our_links()) == 1
    assert await look_with(reconciler, GRACE_S) == 1
    assert set(named_netns.links()) == {"lo"}
    assert our_links() == {}
    assert named_netns.run("ip", "rule").stdout == before


async def test_what_lives_and_what_is_not_ours_stays(lives, named_netns: Netns):
    await leave(lives("a"), by_name(named_netns, "nsm-1"), by_name(named_netns, "nsm-2"))
    await leave(lives("b"), by_name(named_netns, "nsm-b"))
    named_netns.run("ip", "link", "add", "foreign", "type", "veth", "peer", "name", "foreign-peer")
    named_netns.run("ip", "link", "set", "foreign", "alias", "server-nsm-1")
    kernel = lives("a")
    async with (
        kernel.open(Side.CLIENT, by_name(named_netns, "nsm-1")),
        kernel.open(Side.CLIENT, by_name(named_netns, "nsm-3")),
    ):
        assert await look(kernel, 0.0, GRACE_S) == 1
        assert set(named_netns.links()) == {"lo", "nsm-1", "nsm-3", "nsm-b", "foreign", "foreign-peer"}
        assert "10.8.0.0/16" in named_netns.run("ip", "route", "show", "table", "all").stdout
    assert await look(lives("b"), 0.0, GRACE_S) == 1
    named_netns.run("ip", "link", "delete", "foreign")


async def test_what_a_pod_has_marked_otherwise_stays_while_it_is_in_use(lives, named_netns: Netns):
    kernel = lives("a")
    async with kernel.open(Side.CLIENT, by_name(named_netns)):
        named_netns.run("ip", "link", "set", "nsm-1", "alias", "mine")
        assert await look(kernel, 0.0, GRACE_S) == 0
        assert set(named_netns.links()) == {"lo", "nsm-1"}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["the older looks", "the younger looks"])
async def test_nothing_is_removed_while_another_process_lives_under_the_name(lives, named_netns, caplog, order):
    """Whichever of them made it: to the other it looks like an orphan."""
    both = lives("a"), lives("a")
    for each in both:
        each.tools.owner.hold()
    kernel, other = (both[i] for i in order)
    reconciler = Reconciler(kernel.tools, grace_s=GRACE_S)
    async with other.open(Side.CLIENT, by_name(named_netns)):
        assert await look_with(reconciler, 0.0, GRACE_S, 2 * GRACE_S) == 0
        assert set(named_netns.links()) == {"lo", "nsm-1"}
        other.keep()
    assert "another process is a" in caplog.text
    other.tools.owner.close()
    assert await look_with(reconciler, 3 * GRACE_S) == 0, "its time of grace begins when nobody else can ask for it"
    assert await look_with(reconciler, 4 * GRACE_S) == 1


async def test_a_pair_of_another_living_forwarder_is_not_taken_over(lives, named_netns: Netns):
    """Its port would go on reading from it."""
    first = lives("a")
    first.tools.owner.hold()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(first.open(Side.CLIENT, by_name(named_netns)))
        before = named_netns.ifindex("nsm-1")
        async with lives("b").open(Side.CLIENT, by_name(named_netns)):
            assert named_netns.ifindex("nsm-1") != before


async def test_the_pair_of_a_forwarder_that_died_under_another_name_is_taken_over(lives, named_netns: Netns):
    await leave(lives("a"), by_name(named_netns))
    before = named_netns.ifindex("nsm-1"), set(our_links())
    kernel = lives("b")
    async with kernel.open(Side.CLIENT, by_name(named_netns)):
        assert (named_netns.ifindex("nsm-1"), set(our_links())) == before
        assert {link["group"] for link in our_links().values()} == {str(kernel.tools.owner.group)}
        assert await look(lives("a"), 0.0, GRACE_S) == 0
    assert our_links() == {}
