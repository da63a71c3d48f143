"""Missing privilege is named before anything is tried."""

from forwarder.cli.privilege import missing


def test_root_has_all():
    assert missing("Name:\tx\nCapEff:\t000001ffffffffff\n") == []


def test_what_is_missing_is_named():
    assert missing("CapEff:\t0000000000001000\n") == ["CAP_NET_RAW", "CAP_SYS_ADMIN"]
    assert missing("") == ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN"]
