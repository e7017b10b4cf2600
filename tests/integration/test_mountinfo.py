"""Real mounts of loop devices, and the kernel's mount table."""

import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.adapters import mountinfo
from agent.adapters.mountinfo import StickMounts, parse_mountinfo
from agent.core.errors import FileSystemRefusedError, MountError
from agent.core.stick import BlockEvent
from tests import loop_sticks as sticks

TABLE = r"""
36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
40 35 8:1 / /media/MY\040STICK\011\134 ro,nosuid shared:3 master:2 - vfat /dev/sda1 rw,fmask=0022
torn line
41 35 8:2 / /x rw - ext4
"""


def test_a_mount_table_is_read_with_its_escapes() -> None:
    mounts = parse_mountinfo(TABLE)

    assert ["98:0", "8:1"] == [mount.number for mount in mounts]
    assert Path("/media/MY STICK\t\\") == mounts[1].mountpoint
    assert {"rw", "fmask=0022"} == mounts[1].super_options
    assert "/mnt1" == mounts[0].root


@pytest.fixture
def stick(tmp_path: Path) -> Iterator[sticks.Stick]:
    image = sticks.make_ext4(tmp_path / "stick.img", {"hello": b"world"})
    with sticks.plugged(image) as plugged:
        yield plugged


@pytest.fixture
def event(stick: sticks.Stick) -> BlockEvent:
    return BlockEvent(stick.devnode, number=stick.number, fs_type="ext4", label="STICK")


@pytest.fixture
def mounts(tmp_path: Path) -> StickMounts:
    return StickMounts(["ext4"], directory=tmp_path / "run")


def options(path: Path) -> set[str]:
    argv = ["findmnt", "--noheadings", "--output", "OPTIONS", "--mountpoint", str(path)]
    return set(subprocess.check_output(argv, text=True).strip().split(","))


def is_mounted(path: Path) -> bool:
    return any(mount.mountpoint == path for mount in mountinfo.mounts())


@pytest.mark.needs_root
class TestMountedByUs:
    def test_a_stick_cannot_bring_programs_devices_or_links(self, mounts, event) -> None:
        """Attack: suid, device nodes and programs on the stick."""
        with mounts.mounted_ro(event) as path:
            found = options(path)

        assert {"ro", "nosuid", "nodev", "noexec", "noatime"} <= found
        assert not found & {"rw", "suid", "dev", "exec"}

    def test_links_are_not_followed_where_the_kernel_can_tell(self, mounts, event) -> None:
        """Attack: links and path traversal on the stick."""
        with mounts.mounted_rw(event) as path:
            (path / "link").symlink_to("/etc/passwd")
        with mounts.mounted_ro(event) as path:
            if "nosymfollow" not in options(path):
                pytest.skip("this kernel has no nosymfollow")
            with pytest.raises(OSError, match="Too many levels"):
                (path / "link").open()

    def test_without_nosymfollow_it_is_mounted_all_the_same(
        self, mounts, event, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mountinfo, "NO_LINKS", "nosuchoption")

        with mounts.mounted_ro(event) as path:
            assert {"nosuid", "nodev", "noexec"} <= options(path)

    def test_the_journal_of_a_stick_is_not_replayed(self, mounts, event) -> None:
        with mounts.mounted_ro(event) as path:
            assert "norecovery" in options(path) or "noload" in options(path)

    def test_nobody_else_may_look_before_it_is_mounted(self, mounts, event, tmp_path) -> None:
        with mounts.mounted_ro(event) as path:
            pass
        path.parent.mkdir(exist_ok=True)
        made = mounts._make_mountpoint(event, write=False)

        assert 0o700 == made.stat().st_mode & 0o777

    def test_nothing_is_left_afterwards(self, mounts, event) -> None:
        with mounts.mounted_ro(event) as path:
            pass

        assert not is_mounted(path)
        assert not path.exists()

    def test_an_attempt_that_fails_leaves_nothing_mounted(self, mounts, event) -> None:
        with pytest.raises(ZeroDivisionError), mounts.mounted_ro(event) as path:
            1 / 0  # noqa: B018

        assert not is_mounted(path)

    def test_a_stick_still_in_use_is_unmounted_lazily(self, mounts, event) -> None:
        """A file on a pulled stick that some program holds open must not stop the daemon."""
        with mounts.mounted_ro(event) as path:
            held = (path / "hello").open()
        with held:
            assert not is_mounted(path)

    def test_what_a_killed_process_left_mounted_is_cleaned(self, mounts, event) -> None:
        left = mounts.mounted_ro(event)
        path = left.__enter__()

        StickMounts(["ext4"], directory=path.parent).clean()

        assert not is_mounted(path)
        assert not path.exists()
        left.__exit__(None, None, None)

    def test_another_device_under_the_same_name_is_refused(self, mounts, event) -> None:
        """Attack: the stick is swapped between the event and the mount."""
        other = replace(event, number="8:1")

        with pytest.raises(MountError, match="expected 8:1"), mounts.mounted_ro(other):
            pass
        assert not (mounts._directory / f"mnt-{Path(event.devnode).name}-ro").exists()

    def test_a_damaged_file_system_is_the_fault_of_the_stick(self, mounts, tmp_path) -> None:
        with sticks.plugged(sticks.make_blank(tmp_path / "blank.img")) as blank:
            event = BlockEvent(blank.devnode, number=blank.number, fs_type="ext4")

            with pytest.raises(MountError, match="cannot be mounted"), mounts.mounted_ro(event):
                pass

    def test_a_write_protected_stick_is_readable_but_not_writable(self, mounts, tmp_path) -> None:
        image = sticks.make_ext4(tmp_path / "protected.img", {"hello": b"world"})
        with sticks.plugged(image, read_only=True) as plugged:
            event = BlockEvent(plugged.devnode, number=plugged.number, fs_type="ext4")
            with mounts.mounted_ro(event) as path:
                assert b"world" == (path / "hello").read_bytes()

            with pytest.raises(MountError), mounts.mounted_rw(event):
                pass

    @pytest.mark.parametrize("kind", ["squashfs", "erofs"])
    def test_a_file_system_the_kernel_knows_but_we_do_not_want_is_refused(
        self, mounts, tmp_path, kind: str
    ) -> None:
        """Attack: a hostile file system for a driver nobody needs."""
        event = BlockEvent("/dev/loop99", number="7:99", fs_type=kind)

        with pytest.raises(FileSystemRefusedError, match=kind), mounts.mounted_ro(event):
            pass

    def test_a_stick_that_lies_about_its_type_is_not_guessed(self, mounts, tmp_path) -> None:
        """udev says ext4, the kernel finds squashfs: mount -t does not look for another."""
        image = sticks.make_refused(tmp_path / "squash.img", "squashfs")
        with sticks.plugged(image) as plugged:
            event = BlockEvent(plugged.devnode, number=plugged.number, fs_type="ext4")

            with pytest.raises(MountError), mounts.mounted_ro(event):
                pass


@pytest.mark.needs_root
class TestMountedByAnother:
    @pytest.fixture
    def media(self, stick: sticks.Stick, tmp_path: Path) -> Iterator[Path]:
        """An automounter's mount, at a place with a blank in it."""
        path = tmp_path / "MY STICK"
        path.mkdir()
        subprocess.run(["mount", "-t", "ext4", stick.devnode, str(path)], check=True)
        yield path
        subprocess.run(["umount", "--lazy", str(path)], check=True)

    def test_its_mount_is_used_with_our_flags_and_left_alone(self, mounts, event, media) -> None:
        with mounts.mounted_ro(event) as path:
            ours, content = options(path), (path / "hello").read_bytes()

        assert {"ro", "nosuid", "nodev", "noexec"} <= ours
        assert b"world" == content
        assert "rw" in options(media)

    def test_results_are_written_through_it(self, mounts, event, media) -> None:
        with mounts.mounted_rw(event) as path:
            (path / "record").write_bytes(b"10")

        assert b"10" == (media / "record").read_bytes()

    def test_a_read_only_one_is_not_made_writable(self, mounts, event, media) -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(media)], check=True)

        with pytest.raises(MountError, match="read-only"), mounts.mounted_rw(event):
            pass
        assert "ro" in options(media)

    def test_a_part_of_the_stick_mounted_somewhere_is_not_the_stick(
        self, mounts, event, tmp_path
    ) -> None:
        """A bind mount of one directory, made to look like the medium, is not used."""
        with mounts.mounted_rw(event) as path:
            (path / "inner").mkdir()
        whole, part = tmp_path / "whole", tmp_path / "part"
        whole.mkdir()
        part.mkdir()
        subprocess.run(["mount", "-o", "ro", event.devnode, str(whole)], check=True)
        subprocess.run(["mount", "--bind", str(whole / "inner"), str(part)], check=True)
        subprocess.run(["umount", str(whole)], check=True)
        try:
            assert mounts._foreign(event) is None
        finally:
            subprocess.run(["umount", str(part)], check=True)


@pytest.mark.needs_root
class TestWaitingForAnAutomounter:
    def test_a_mount_that_comes_late_is_used(self, event, stick, tmp_path) -> None:
        waiting = StickMounts(["ext4"], wait_s=10, directory=tmp_path / "run")
        place = tmp_path / "media"
        place.mkdir()

        def automount() -> None:
            time.sleep(0.2)
            subprocess.run(["mount", stick.devnode, str(place)], check=True)

        before = waiting.ready(event)
        automounter = threading.Thread(target=automount)
        automounter.start()
        try:
            with waiting.mounted_ro(event) as path:
                content = (path / "hello").read_bytes()
            after = waiting.ready(event)
        finally:
            automounter.join()
            subprocess.run(["umount", str(place)], check=True)

        assert b"world" == content
        assert (False, True) == (before, after)

    def test_without_one_the_stick_is_not_mounted(self, event, tmp_path) -> None:
        waiting = StickMounts(["ext4"], wait_s=0, directory=tmp_path / "run")

        with pytest.raises(MountError, match="no automounter"), waiting.mounted_ro(event):
            pass
