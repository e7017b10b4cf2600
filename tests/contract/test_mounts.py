"""What every `Mounts` does: in memory, and with real mounts of loop devices."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.adapters.mountinfo import StickMounts
from agent.core.errors import FileSystemRefusedError, MountError
from agent.core.stick import BlockEvent
from tests import loop_sticks as sticks
from tests.fakes.devices import stick
from tests.fakes.mounts import MemoryMounts


class MountsContract:
    """Subclasses provide ``mounts`` and ``plugged``, an event of a stick that holds ``hello``."""

    def test_a_stick_is_readable_while_it_is_mounted(self, mounts, plugged) -> None:
        with mounts.mounted_ro(plugged) as path:
            assert b"world" == (path / "hello").read_bytes()

    def test_what_is_written_is_there_at_the_next_visit(self, mounts, plugged) -> None:
        with mounts.mounted_rw(plugged) as path:
            (path / "record").write_bytes(b"10")
        with mounts.mounted_ro(plugged) as path:
            assert b"10" == (path / "record").read_bytes()

    def test_a_refused_file_system_names_its_type(self, mounts, plugged) -> None:
        other = BlockEvent(plugged.devnode, number=plugged.number, fs_type="ntfs")

        with pytest.raises(FileSystemRefusedError, match="ntfs"), mounts.mounted_ro(other):
            pass

    def test_a_stick_that_is_gone_is_an_error_of_the_stick(self, mounts, plugged, pull) -> None:
        pull()

        with pytest.raises(MountError), mounts.mounted_ro(plugged):
            pass

    def test_cleaning_twice_does_no_harm(self, mounts) -> None:
        mounts.clean()
        mounts.clean()


class TestMemoryMounts(MountsContract):
    @pytest.fixture
    def plugged(self) -> BlockEvent:
        return stick()

    @pytest.fixture
    def mounts(self, plugged: BlockEvent, tmp_path: Path) -> MemoryMounts:
        (tmp_path / "hello").write_bytes(b"world")
        return MemoryMounts({plugged.devnode: tmp_path})

    @pytest.fixture
    def pull(self, mounts: MemoryMounts):
        return mounts.sticks.clear


@pytest.mark.needs_root
class TestStickMounts(MountsContract):
    @pytest.fixture
    def stick(self, tmp_path: Path) -> Iterator[sticks.Stick]:
        image = sticks.make_ext4(tmp_path / "stick.img", {"hello": b"world"})
        with sticks.plugged(image) as plugged:
            yield plugged

    @pytest.fixture
    def plugged(self, stick: sticks.Stick) -> BlockEvent:
        return BlockEvent(stick.devnode, number=stick.number, fs_type="ext4")

    @pytest.fixture
    def mounts(self, tmp_path: Path):
        return StickMounts(["ext4"], directory=tmp_path / "run")

    @pytest.fixture
    def pull(self, stick: sticks.Stick):
        return lambda: sticks.detach(stick)
