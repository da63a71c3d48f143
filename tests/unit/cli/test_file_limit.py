"""The limit of open files: raised as far as may be, and told."""

import logging
import resource

import pytest

from forwarder.cli.file_limit import raise_file_limit


class Limits:
    """The kernel's side: a limit that only the privileged may raise beyond the hard one."""

    def __init__(self, soft, hard, *, privileged, most=1 << 20):
        self.now = (soft, hard)
        self.privileged = privileged
        self.most = most

    def get(self, which):
        assert which == resource.RLIMIT_NOFILE
        return self.now

    def set(self, which, limits):
        assert which == resource.RLIMIT_NOFILE
        soft, hard = limits
        if soft > hard:
            raise ValueError("current limit exceeds maximum limit")
        if hard > self.most or (hard > self.now[1] and not self.privileged):
            raise ValueError("not allowed to raise maximum limit")
        self.now = limits


@pytest.mark.parametrize(
    ("limits", "left", "warned"),
    [
        (Limits(1024, 1 << 19, privileged=False), (5000, 1 << 19), False),
        (Limits(1024, 4096, privileged=True), (5000, 5000), False),
        (Limits(1024, 4096, privileged=False), (4096, 4096), True),
        (Limits(1024, 2048, privileged=True, most=4000), (2048, 2048), True),
    ],
    ids=["up to what is wanted", "beyond the hard limit", "up to the hard limit", "not beyond the kernel's own"],
)
def test_the_limit_is_raised_as_far_as_may_be_and_told(limits, left, warned, monkeypatch, caplog):
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    caplog.set_level(logging.INFO)
    assert raise_file_limit(5000) == left[0]
    assert limits.now == left
    (record,) = caplog.records
    assert (record.levelno == logging.WARNING) == warned
    assert str(left[0]) in record.getMessage()


def test_a_limit_that_will_do_is_left_alone_in_silence(monkeypatch, caplog):
    limits = Limits(8000, 9000, privileged=True)
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    caplog.set_level(logging.INFO)
    assert raise_file_limit(5000) == 8000
    assert limits.now == (8000, 9000)
    assert not caplog.records
