from collections.abc import Sequence

from forwarder.dataplane.spec import Offload

def segment(frame: bytes, offload: Offload, *, ip_mode: bool = False, cuts: Sequence[int] = ()) -> list[bytes]: ...
