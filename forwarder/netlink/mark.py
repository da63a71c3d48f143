"""The mark on what this package adds to a kernel, so that it finds its own and only its own.

Links carry an alias, which their maker chooses. Addresses, routes, rules and neighbours carry
a protocol number: the originator that `ip route` shows as `proto`. 118 stands neither in
linux/rtnetlink.h nor in iproute2's rt_protos.
"""

from typing import Final

PROTOCOL: Final = 118
