from collections.abc import Sequence

from forwarder.dataplane.spec import Offload

def coalesced(frames: Sequence[bytes], *, ip_mode: bool = False) -> list[tuple[bytes, Offload, int]]: ...
