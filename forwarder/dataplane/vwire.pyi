from typing import Self

from typing_extensions import disjoint_base

from forwarder.dataplane.port import Port
from forwarder.dataplane.statistics import VwireStatistics
from forwarder.dataplane.worker import Worker

@disjoint_base
class Vwire:
    worker: Worker | None
    def __new__(cls, a: Port, b: Port, name: str = "") -> Self: ...
    @property
    def name(self) -> str: ...
    @property
    def a(self) -> Port: ...
    @property
    def b(self) -> Port: ...
    def statistics(self) -> VwireStatistics: ...
    def refresh(self) -> int | None: ...
