"""Who forgets to close something is told, and what was closed is gone."""

import gc

import pytest

from forwarder.dataplane import PortIO, allocations
from forwarder.dataplane.memif import MemifPort
from forwarder.dataplane.memif_memory import Layout, create_memory
from forwarder.dataplane.vwire import Vwire
from forwarder.dataplane.worker import Worker
from forwarder.errors import DataplaneError
from tests.support.memif_rings import both_ends, session

LAYOUT = Layout(log2_ring_size=8, buffer_bytes=2048)


def forget_an_attached_port() -> None:
    memory = create_memory(LAYOUT)
    port = MemifPort(name="forgotten", server=True)
    port.attach(session(memory, LAYOUT, server=True))
    memory.close()
    with pytest.warns(ResourceWarning, match="forgotten"):  # noqa: PT031 - collected in two steps
        del port
        gc.collect()


def test_a_port_collected_while_attached_warns_and_is_freed() -> None:
    gc.collect()
    before = allocations()
    forget_an_attached_port()
    gc.collect()  # the warning had it
    assert allocations() == before


def test_a_session_collected_while_open_warns() -> None:
    memory = create_memory(LAYOUT)
    mapped = session(memory, LAYOUT, server=True)
    assert mapped.server
    with pytest.warns(ResourceWarning, match="session"):  # noqa: PT031
        del mapped
        gc.collect()
    memory.close()


def test_a_portio_collected_while_open_warns_and_lets_go_of_nothing_silently() -> None:
    port = MemifPort(name="driven", server=True)
    io = PortIO(port)
    assert io.fileno() >= 0
    with pytest.warns(ResourceWarning, match="driven"):  # noqa: PT031
        del io, port
        gc.collect()


def test_closing_twice_is_closing_once() -> None:
    memory = create_memory(LAYOUT)
    mapped = session(memory, LAYOUT, server=True)
    mapped.close()
    mapped.close()
    port = MemifPort(name="twice", server=True)
    port.close()
    port.close()
    with pytest.raises(DataplaneError, match="closed"):
        port.attach(mapped)
    memory.close()


def test_an_attached_session_does_not_close_under_its_port() -> None:
    with both_ends(8) as (server, _):
        assert isinstance(server.port, MemifPort)
        mapped = server.port.session
        assert mapped is not None
        with pytest.raises(DataplaneError, match="still attached"):
            mapped.close()
        with pytest.raises(DataplaneError, match="still run"):
            server.port.close()


def test_a_session_goes_to_a_port_of_its_role_once() -> None:
    memory = create_memory(LAYOUT)
    mapped = session(memory, LAYOUT, server=True)
    client, server = MemifPort(name="c", server=False), MemifPort(name="s", server=True)
    with pytest.raises(DataplaneError, match="roles"):
        client.attach(mapped)
    server.attach(mapped)
    with pytest.raises(DataplaneError, match="attached already"):
        server.attach(mapped)
    server.close()
    memory.close()


def test_a_worker_runs_once_and_stops_twice() -> None:
    worker = Worker(name="once")
    worker.start()
    assert worker.running
    with pytest.raises(DataplaneError, match="started before"):
        worker.start()
    worker.stop()
    worker.stop()
    assert not worker.running
    with pytest.raises(DataplaneError, match="started before"):
        worker.start()
    wire = Vwire(MemifPort(server=True), MemifPort(server=True))
    with pytest.raises(DataplaneError, match="stopped"):
        worker.add(wire)
    assert wire.worker is wire.a.wire is wire.b.wire is None


def test_a_worker_that_stops_lets_go_of_its_wires() -> None:
    worker = Worker(name="brief")
    worker.start()
    wire = Vwire(MemifPort(server=True), MemifPort(server=True), "left")
    worker.add(wire)
    worker.stop()
    assert wire.worker is wire.a.wire is wire.b.wire is None


def test_a_cpu_that_is_not_ours_is_refused() -> None:
    with pytest.raises(DataplaneError, match="CPU 4095"):
        Worker(name="far", cpu=4095).start()
