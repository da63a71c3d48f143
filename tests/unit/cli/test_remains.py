"""What a mesh writes down before it makes anything, so that it can be taken away."""

import os
import stat

import psutil
import pytest

from forwarder.cli.remains import Remains
from forwarder.errors import ConfigError


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = Remains(name="demo", directory=str(tmp_path / "demo"), pid=7, started=1.5, namespaces=("a", "b"))
    record.write()
    assert Remains.load(str(tmp_path), "demo") == record
    assert Remains.recorded(str(tmp_path)) == ["demo"]
    assert stat.S_IMODE((tmp_path / "demo").stat().st_mode) == 0o700


def test_a_mesh_without_record_has_nothing_left(tmp_path):
    assert Remains.load(str(tmp_path), "demo").remove() == []
    assert Remains.recorded(str(tmp_path / "absent")) == []


def test_a_record_that_is_damaged_is_an_error(tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "record.json").write_text('{"pid": ')
    with pytest.raises(ConfigError, match="record of mesh 'demo'"):
        Remains.load(str(tmp_path), "demo")


def test_a_process_that_got_the_number_of_another_is_not_ours(tmp_path):
    me = psutil.Process()
    ours = Remains(name="demo", directory=str(tmp_path), pid=os.getpid(), started=me.create_time())
    other = Remains(name="demo", directory=str(tmp_path), pid=os.getpid(), started=me.create_time() - 60)
    assert ours.process() == me
    assert other.process() is None


def test_removing_takes_the_directory_away(tmp_path):
    record = Remains(name="demo", directory=str(tmp_path / "run" / "demo"), namespaces=("vwire-no-such-namespace",))
    record.write()
    assert record.remove() == [f"removed {tmp_path}/run/demo"]
    assert not (tmp_path / "run").exists()
