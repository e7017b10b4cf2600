"""The walk that links, special files and endless trees cannot lead astray."""

import os
from pathlib import Path

import pytest

from agent.adapters.sticktree import (
    Budget,
    NotPlainError,
    TooMuchError,
    open_directories,
    open_directory,
    walk_plain,
)


def walked(path, *, entries=100, depth=3):
    with open_directory(path) as fd:
        return [str(file.path) for file in walk_plain(fd, Budget(entries), depth=depth)]


def test_regular_files_come_in_order_with_their_paths(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/2").touch()
    (tmp_path / "b/1").touch()
    (tmp_path / "a").touch()

    assert walked(tmp_path) == ["a", "b/1", "b/2"]


def test_a_file_tells_its_size(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")

    with open_directory(tmp_path) as fd:
        sizes = [file.size_bytes() for file in walk_plain(fd, Budget(9), depth=0)]

    assert sizes == [5]


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, lambda path: path.symlink_to("/etc"), lambda path: path.symlink_to("/etc/passwd")],
)
def test_anything_else_is_refused_by_name(tmp_path, make):
    (tmp_path / "d").mkdir()
    make(tmp_path / "d/odd")

    with pytest.raises(NotPlainError, match="'d/odd'"):
        walked(tmp_path)


def test_a_device_node_is_refused(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("making a device node needs root")
    os.mknod(tmp_path / "zero", 0o20600, os.makedev(1, 5))

    with pytest.raises(NotPlainError, match="zero"):
        walked(tmp_path)


def test_more_entries_than_paid_for_end_the_walk(tmp_path):
    for number in range(6):
        (tmp_path / str(number)).touch()

    with pytest.raises(TooMuchError):
        walked(tmp_path, entries=5)

    assert len(walked(tmp_path, entries=6)) == 6


def test_deeper_than_allowed_ends_the_walk(tmp_path):
    (tmp_path / "1/2").mkdir(parents=True)

    with pytest.raises(TooMuchError, match="'1/2'"):
        walked(tmp_path, depth=1)

    assert walked(tmp_path, depth=2) == []


def test_a_deadline_ends_the_walk(tmp_path):
    (tmp_path / "a").touch()
    budget = Budget(100, deadline_s=10, clock=lambda: 11)

    with open_directory(tmp_path) as fd, pytest.raises(TooMuchError, match="too long"):
        list(walk_plain(fd, budget, depth=0))


@pytest.mark.parametrize("make", [os.mkfifo, Path.touch, lambda path: path.symlink_to("/etc")])
def test_only_a_directory_opens_as_one(tmp_path, make):
    make(tmp_path / "odd")

    with pytest.raises(NotPlainError), open_directory(tmp_path / "odd"):
        pass


def test_a_link_on_the_way_is_not_followed(tmp_path):
    (tmp_path / "real/inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")

    with pytest.raises(NotPlainError), open_directories(tmp_path, "link", "inner"):
        pass


def test_a_directory_swapped_for_a_link_does_not_lead_the_walk_out(tmp_path):
    """What was opened stays what is walked, whatever its name means later."""
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/inside").touch()
    with open_directory(tmp_path / "dir") as fd:
        (tmp_path / "dir").rename(tmp_path / "moved")
        (tmp_path / "dir").symlink_to("/etc")

        found = [file.path.name for file in walk_plain(fd, Budget(9), depth=0)]

    assert found == ["inside"]


def test_no_descriptor_is_left_open(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/odd").symlink_to("/etc")
    before = len(list(Path("/proc/self/fd").iterdir()))

    with pytest.raises(NotPlainError):
        walked(tmp_path)

    assert len(list(Path("/proc/self/fd").iterdir())) == before
