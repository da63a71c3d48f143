import socket as socket_module

from forwarder.dataplane.port import Port
from forwarder.errors import DataplaneError

class AfPacketPort(Port):
    @property
    def error(self) -> DataplaneError | None: ...
    @property
    def socket(self) -> socket_module.socket: ...
    @property
    def name(self) -> str: ...
    def __init__(
        self,
        socket: socket_module.socket,
        name: str,
        *,
        ip_mode: bool,
        mtu_bytes: int,
        mac: bytes,
        peer_mac: bytes,
        bypass: bool,
    ) -> None: ...
    def set_link(self, up: bool) -> None: ...
    def fail(self, error: DataplaneError) -> None: ...
    def read_missed(self) -> int: ...
    def close(self) -> None: ...
