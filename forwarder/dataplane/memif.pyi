from typing import Self

from typing_extensions import disjoint_base

from forwarder.dataplane.port import Port

@disjoint_base
class MemifSession:
    def __new__(
        cls,
        *,
        server: bool,
        regions: list[tuple[int, int]],
        to_server: tuple[int, int, int, int],
        to_client: tuple[int, int, int, int],
        frame_bytes_max: int = 65550,
        buffer_bytes: int = 0,
        to_server_buffers: int = 0,
        to_client_buffers: int = 0,
    ) -> Self: ...
    @property
    def server(self) -> bool: ...
    @property
    def port(self) -> MemifPort | None: ...
    def close(self) -> None: ...

@disjoint_base
class MemifPort(Port):
    def __new__(cls, *, name: str = "memif", server: bool, ip_mode: bool = False) -> Self: ...
    @property
    def name(self) -> str: ...
    @property
    def server(self) -> bool: ...
    @property
    def session(self) -> MemifSession | None: ...
    def attach(self, session: MemifSession) -> None: ...
    def detach(self) -> tuple[MemifSession | None, int | None]: ...
    def close(self) -> None: ...

def file_system_type(fd: int) -> int: ...
