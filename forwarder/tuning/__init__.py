"""The knobs of the data plane in one profile, and what measures good values for them on this host.

The measuring is in `sweep`, which a program that only wants its knobs need not import.
"""

from forwarder.tuning.profile import Profile

__all__ = ["Profile"]
