"""One socket has one URL for as long as anybody keeps it."""

import os
from pathlib import Path

import pytest

from forwarder.errors import InvalidRequest
from forwarder.service.kept_urls import KeptUrls


def opened(path: Path) -> tuple[int, str]:
    fd = os.open(path, os.O_PATH)
    return fd, f"unix:///proc/{os.getpid()}/fd/{fd}"


def test_two_descriptors_of_one_socket_give_one_url_until_the_last_lets_go(tmp_path: Path) -> None:
    file = tmp_path / "nse.sock"
    file.touch()
    kept = KeptUrls()
    first, url = opened(file)
    mine, let_go = kept.keep(url)
    os.close(first)
    second, url = opened(file)
    again, let_go_again = kept.keep(url)
    os.close(second)
    assert mine == again
    assert kept.keep(mine)[0] == mine, "what it gave out can be kept once more"
    assert len(kept) == 1
    path = mine.removeprefix("unix://")
    for end in (let_go, let_go_again):
        assert os.stat(path).st_ino == file.stat().st_ino
        end()
    assert len(kept) == 1
    kept._let_go(next(iter(kept._kept)))
    assert len(kept) == 0
    assert not os.path.exists(path)


def test_a_socket_made_anew_at_the_same_place_is_another(tmp_path: Path) -> None:
    file = tmp_path / "nse.sock"
    kept = KeptUrls()
    urls = []
    ends = []
    for _ in range(2):
        file.unlink(missing_ok=True)
        file.touch()
        fd, url = opened(file)
        mine, let_go = kept.keep(url)
        os.close(fd)
        urls.append(mine)
        ends.append(let_go)
    assert urls[0] != urls[1]
    for end in ends:
        end()
    assert len(kept) == 0


@pytest.mark.parametrize("url", ["unix:///run/nse.sock", "tcp://10.0.0.1:5001", "inode://4/2"])
def test_other_urls_stay_as_they_are(url: str) -> None:
    kept = KeptUrls()
    mine, let_go = kept.keep(url)
    assert mine == url
    assert len(kept) == 0
    let_go()


def test_a_descriptor_that_is_not_there_is_told() -> None:
    with pytest.raises(InvalidRequest, match="cannot look at it"):
        KeptUrls().keep("unix:///proc/self/fd/999999")
