"""Which datapath carries a vWire: what is asked for, what there is, and what failed before."""

from contextlib import asynccontextmanager

import pytest

from forwarder.api.connection_pb2 import Connection
from forwarder.api.context import Side
from forwarder.errors import DataplaneError, InvalidRequest, MechanismUnsupported
from forwarder.service.datapaths import Datapaths, Wanted, Wish, choices, wish
from tests.support.clock import settle
from tests.support.fake_mechanism import FakeOpenPort, FakeVwire, World, asked
from tests.unit.service.test_request import Scene


class Direct:
    """Joins one mechanism to itself."""

    keeps_client = False

    def __init__(self, world, mechanism, name):
        self.name = name
        self._world = world
        self._mechanism = mechanism

    def carries(self, client, endpoint):
        return client == endpoint == self._mechanism

    @asynccontextmanager
    async def open(self, side, connection):
        name = f"{self.name}/{connection.mechanism.parameters['name']}"
        await self._world.step(f"open {side.value} {name}")
        self._world.held.append(f"{side.value} {name}")
        opened = FakeOpenPort(self._world, name, side, connection)
        self._world.ports.append(opened)
        try:
            yield opened
        finally:
            self._world.ports.remove(opened)
            self._world.held.remove(f"{side.value} {name}")
            await self._world.step(f"close {side.value} {name}")

    @asynccontextmanager
    async def join(self, client, endpoint, *, name, broken):
        await self._world.step(f"join {client.interface} {endpoint.interface}")
        self.broken = broken
        self._world.held.append(f"{self.name} {name}")
        try:
            yield FakeVwire(name)
        finally:
            self._world.held.remove(f"{self.name} {name}")
            await self._world.step(f"part {client.interface} {endpoint.interface}")


class Loop(Direct):
    def carries(self, client, endpoint):
        return True


WORLD = World()
VETH, TC = (Direct(WORLD, "KERNEL", name) for name in ("veth", "redirect"))
MEMIF = Direct(WORLD, "MEMIF", "memif")
ALL = Datapaths(mechanisms={}, userspace=Loop(WORLD, "", "userspace"), direct=[VETH, TC, MEMIF])


@pytest.mark.parametrize(
    ("wanted", "pair", "unfit", "found"),
    [
        ("auto", "KERNEL KERNEL", {}, "veth redirect userspace"),
        ("auto", "MEMIF MEMIF", {}, "memif userspace"),
        ("auto", "KERNEL MEMIF", {}, "userspace"),
        ("auto", "MEMIF KERNEL", {}, "userspace"),
        ("auto", "KERNEL KERNEL", {"veth": "veth failed: no"}, "redirect userspace"),
        ("auto", "MEMIF MEMIF", {"memif": "memif failed: no"}, "userspace"),
        ("kernel", "KERNEL KERNEL", {"veth": "veth failed: no"}, "veth redirect"),
        ("redirect", "KERNEL KERNEL", {"redirect": "redirect failed: no"}, "redirect"),
        ("kernel", "MEMIF MEMIF", {}, "memif"),
        ("userspace", "KERNEL KERNEL", {}, "userspace"),
        ("userspace", "MEMIF MEMIF", {}, "userspace"),
    ],
)
def test_datapaths_are_tried_in_this_order(wanted, pair, unfit, found):
    chosen = choices(Wish(wanted=Wanted(wanted)), *pair.split(), ALL, unfit)
    assert [each.datapath.name for each in chosen] == found.split()


@pytest.mark.parametrize(
    ("wanted", "pair", "unfit", "told"),
    [
        ("auto", "KERNEL KERNEL", {}, "KERNEL to KERNEL on one node, and nothing asks for more"),
        ("auto", "KERNEL MEMIF", {}, "KERNEL to MEMIF cannot do without our workers"),
        ("auto", "MEMIF MEMIF", {"memif": "memif failed: no"}, "memif failed: no"),
        ("userspace", "MEMIF MEMIF", {}, "label datapath is userspace"),
    ],
)
def test_a_choice_says_why(wanted, pair, unfit, told):
    first, *_ = choices(Wish(wanted=Wanted(wanted), origin="label datapath"), *pair.split(), ALL, unfit)
    assert first.reason == told


def test_nothing_but_the_kernel_cannot_join_different_mechanisms():
    with pytest.raises(MechanismUnsupported, match="KERNEL to MEMIF cannot do without our workers") as caught:
        choices(Wish(wanted=Wanted.KERNEL), "KERNEL", "MEMIF", ALL, {})
    assert caught.value.hint == "ask for auto or userspace"


def test_the_label_is_stronger_than_the_setting():
    assert wish(Connection(), Wanted.KERNEL).wanted is Wanted.KERNEL
    assert wish(Connection(labels={"datapath": "userspace"}), Wanted.KERNEL).wanted is Wanted.USERSPACE


@pytest.mark.parametrize("value", ["", "Kernel", "vpp", "kernel "])
def test_a_label_that_names_no_datapath_is_refused(value):
    with pytest.raises(InvalidRequest, match="names no datapath") as caught:
        wish(Connection(labels={"datapath": value}), Wanted.AUTO)
    assert "auto, userspace, kernel, redirect" in caught.value.detail


def direct_scene(*names):
    return Scene(direct=lambda world: [Direct(world, "KERNEL", name) for name in names])


async def datapath_of(scene):
    (status,) = scene.forwarder.statistics().connections
    return status.datapath, status.datapath_reason


async def test_a_vwire_without_the_workers_is_joined_without_ports_and_closed_as_any_other():
    scene = direct_scene("veth")
    async with scene.forwarder:
        answer = await scene.request(scene.first())
        assert scene.world.taken() == [
            "open endpoint veth/nse-1",
            "open client veth/nsm-1",
            "join veth/nsm-1 veth/nse-1",
            "update endpoint veth/nse-1 mtu 9000",
            "update client veth/nsm-1 mtu 9000",
        ]
        assert await datapath_of(scene) == ("veth", "KERNEL to KERNEL on one node, and nothing asks for more")
        await scene.request(answer)
        assert {each.split()[0] for each in scene.world.taken()} == {"update"}
        await scene.close(answer)
        assert scene.world.held == []
    scene.nothing_left()


async def test_when_it_fails_the_workers_take_over_and_it_is_not_tried_again():
    scene = direct_scene("veth")
    scene.world.fail_at["join veth"] = DataplaneError("no veth here")
    async with scene.forwarder:
        answer = await scene.request(scene.first())
        assert await datapath_of(scene) == ("userspace", "veth failed: no veth here")
        scene.world.taken()
        await scene.request(answer)
        assert {each.split()[0] for each in scene.world.taken()} == {"update"}
        await scene.close(answer)
    scene.nothing_left()


async def test_a_bad_request_is_told_and_not_tried_on_every_datapath():
    scene = direct_scene("veth")
    scene.world.fail_at["join veth"] = InvalidRequest("the name is taken")
    async with scene.forwarder:
        with pytest.raises(InvalidRequest, match="the name is taken"):
            await scene.request(scene.first())
        assert not [step for step in scene.world.taken() if "KERNEL" in step]
    scene.nothing_left()


async def test_the_datapath_changes_with_the_label_and_the_old_one_closes_last():
    scene = direct_scene("veth")
    async with scene.forwarder:
        answer = await scene.request(scene.first())
        scene.world.taken()
        answer.labels["datapath"] = "userspace"
        answer = await scene.request(answer)
        steps = scene.world.taken()
        assert steps[:4] == [
            "open endpoint KERNEL/nse-1",
            "open client KERNEL/nsm-1",
            "part veth/nsm-1 veth/nse-1",
            "join KERNEL/nsm-1 KERNEL/nse-1",
        ]
        assert set(steps[-2:]) == {"close endpoint veth/nse-1", "close client veth/nsm-1"}
        assert await datapath_of(scene) == ("userspace", "label datapath is userspace")
        answer.labels["datapath"] = "kernel"
        await scene.request(answer)
        assert (await datapath_of(scene))[0] == "veth"
        await scene.close(answer)
    scene.nothing_left()


async def test_an_end_that_breaks_because_another_takes_its_place_makes_nothing_down():
    made = []
    scene = Scene(direct=lambda world: made.extend([Direct(world, "KERNEL", "veth")]) or made)
    async with scene.forwarder:
        answer = await scene.request(scene.first())
        step = scene.world.step

        async def breaking(what):
            await step(what)
            if what.startswith("open client KERNEL"):
                made[0].broken("KERNEL/nsm-1: it was deleted")

        scene.world.step = breaking
        answer.labels["datapath"] = "userspace"
        await scene.request(answer)
        await settle()
        (status,) = scene.forwarder.statistics().connections
        assert (status.datapath, status.state) == ("userspace", "UP")
        await scene.close(answer)
    scene.nothing_left()


async def test_an_end_that_breaks_makes_the_connection_down_until_a_request_mends_it():
    made = []
    scene = Scene(direct=lambda world: made.extend([Direct(world, "KERNEL", "veth")]) or made)
    async with scene.forwarder:
        answer = await scene.request(scene.first())
        scene.world.port(Side.CLIENT).port.dead = True
        made[0].broken("KERNEL/nsm-1: it was deleted")
        await settle()
        assert scene.forwarder.statistics().connections[0].state == "DOWN"
        await scene.request(answer)
        assert scene.forwarder.statistics().connections[0].state == "UP"
        await scene.close(answer)
    scene.nothing_left()


@pytest.mark.parametrize("step", ["open client veth", "join veth", "update client veth"])
async def test_a_change_of_datapath_that_fails_leaves_the_old_one_in_place(step):
    scene = direct_scene("veth")
    async with scene.forwarder:
        answer = await scene.request(scene.first(labels={"datapath": "userspace"}))
        before = sorted(scene.world.held)
        changed = Connection.FromString(answer.SerializeToString())
        changed.labels["datapath"] = "kernel"
        scene.world.fail_at[step] = DataplaneError("broken")
        with pytest.raises(DataplaneError, match="broken"):
            await scene.request(changed)
        assert sorted(scene.world.held) == before
        assert (await datapath_of(scene))[0] == "userspace"
        await scene.request(answer)
        await scene.close(answer)
    scene.nothing_left()


async def test_a_forwarder_of_kernel_datapaths_takes_the_first_mechanism_that_can_do():
    scene = direct_scene("veth")
    async with scene.forwarder:
        request = scene.first(asked("MEMIF"), asked("KERNEL"), labels={"datapath": "kernel"})
        answer = await scene.request(request)
        assert answer.mechanism.type == "KERNEL"
        await scene.close(answer)
        with pytest.raises(MechanismUnsupported, match="cannot do without our workers"):
            await scene.request(scene.first(asked("MEMIF"), labels={"datapath": "kernel"}))
    scene.nothing_left()


async def test_a_label_that_names_no_datapath_is_refused_before_the_next_hop_is_asked():
    scene = direct_scene()
    async with scene.forwarder:
        with pytest.raises(InvalidRequest, match="names no datapath"):
            await scene.request(scene.first(labels={"datapath": "express"}))
        assert scene.hop.requests == []
    scene.nothing_left()
