"""What may become a stick, and what may lie on one."""

from dataclasses import replace

import pytest

from agent.core import stickplan
from agent.core.authoring import AuthoringError
from agent.core.stickplan import Disk, Part, Room, StickFile, Tree

PART = Part("/dev/sdb1", "8:17", 8 << 30, "vfat", "STICK")
WHOLE = Part("/dev/sdb", "8:16", 8 << 30, "partition table (dos)")
DISK = Disk(
    name="sdb",
    devnode="/dev/sdb",
    by_directory=False,
    model="ACME Stick",
    removable=True,
    system=False,
    read_only=False,
    parts=(WHOLE, PART),
)
FAT = Room("vfat", 100 << 20, 32768)


def tree(*paths: str) -> Tree:
    return Tree((), tuple(StickFile(path, 1) for path in paths))


class TestDisks:
    def test_a_stick_that_nobody_uses_may_be_formatted(self) -> None:
        stickplan.demand_stick(DISK)
        stickplan.demand_writable(DISK)
        stickplan.demand_unused(DISK)

    def test_the_system_disk_is_never_a_stick_even_on_usb(self) -> None:
        with pytest.raises(AuthoringError, match="the disk this system runs from"):
            stickplan.demand_stick(replace(DISK, system=True))

    def test_what_cannot_be_pulled_out_is_no_stick(self) -> None:
        with pytest.raises(AuthoringError, match="no removable medium"):
            stickplan.demand_stick(replace(DISK, removable=False))

    def test_a_write_protected_stick_is_told(self) -> None:
        with pytest.raises(AuthoringError, match="write-protected"):
            stickplan.demand_writable(replace(DISK, read_only=True))

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"parts": (WHOLE, replace(PART, mounted_at=("/media/x",)))}, "mounted at '/media/x'"),
            ({"parts": (replace(WHOLE, users=("dm-0",)), PART)}, "used by dm-0"),
            ({"parts": (replace(WHOLE, size_bytes=0),)}, "no medium"),
            ({"by_directory": True}, "a directory was named"),
        ],
    )
    def test_what_is_in_use_is_not_formatted(self, change: dict[str, object], words: str) -> None:
        with pytest.raises(AuthoringError, match=words):
            stickplan.demand_unused(replace(DISK, **change))  # type: ignore[arg-type]

    def test_the_one_file_system_of_a_stick_is_found(self) -> None:
        assert PART == stickplan.bearer(DISK)

    @pytest.mark.parametrize("parts", [(WHOLE,), (WHOLE, PART, replace(PART, number="8:18"))])
    def test_none_or_several_are_not_guessed_at(self, parts: tuple[Part, ...]) -> None:
        with pytest.raises(AuthoringError, match="file systems that devices mount"):
            stickplan.bearer(replace(DISK, parts=parts))

    def test_what_would_be_lost_is_named(self) -> None:
        assert stickplan.losses(DISK) == (
            "/dev/sdb: ACME Stick, 8192 MiB",
            "  /dev/sdb: partition table (dos), 8192 MiB",
            "  /dev/sdb1: vfat 'STICK', 8192 MiB",
        )


class TestNames:
    @pytest.mark.parametrize(
        "name", ["", ".hidden", "a b", "a/b", "tuf", "Apps", "usb-update-results", "CON", "x" * 49]
    )
    def test_a_bundle_that_would_not_be_found_is_renamed(self, name: str) -> None:
        with pytest.raises(AuthoringError, match="cannot be a bundle's name"):
            stickplan.demand_names([name])

    def test_two_bundles_of_one_name_are_told_apart_by_the_person(self) -> None:
        with pytest.raises(AuthoringError, match="two bundles would lie in 'usb-update/Bundle'"):
            stickplan.demand_names(["bundle", "Bundle"])

    @pytest.mark.parametrize(
        ("path", "words"),
        [
            ("apps/a:b", "cannot spell: ':'"),
            ("apps/a\nb", "cannot spell"),
            ("apps/end.", "FAT drops"),
            ("apps/end ", "FAT drops"),
            ("apps/Aux.txt", "device on Windows"),
            ("apps/" + "x" * 256, "more than 255"),
        ],
    )
    def test_what_fat_cannot_hold_is_refused(self, path: str, words: str) -> None:
        with pytest.raises(AuthoringError, match=words):
            stickplan.demand_portable("one", tree("apps/good", path))

    def test_case_makes_no_difference_on_fat(self) -> None:
        with pytest.raises(AuthoringError, match=r"'apps/Shop' and 'apps/shop' are one name"):
            stickplan.demand_portable("one", tree("apps/Shop", "apps/shop"))

    def test_how_many_more_problems_there_are_is_said(self) -> None:
        with pytest.raises(AuthoringError, match=r"\(and 2 more\)"):
            stickplan.demand_portable("one", tree("a:", "b:", "c:"))

    def test_a_bundles_usual_names_are_good(self) -> None:
        usual = ("ostree_repo/objects/00/ff.filez", "ostree_repo/.lock", "apps/apps/shop/ab/uri")

        stickplan.demand_portable("one", tree(*usual))
        assert stickplan.long_paths("one", tree(*usual)) == ""

    def test_paths_that_windows_does_not_copy_are_warned_about(self) -> None:
        assert "1 files of 'one'" in stickplan.long_paths("one", tree("x/" * 130 + "y"))


class TestRoom:
    def test_what_fits_fits(self) -> None:
        stickplan.demand_room([StickFile("a", 50 << 20)], FAT, directories=10)

    def test_small_files_take_whole_blocks(self) -> None:
        files = [StickFile(str(number), 1) for number in range(4000)]

        with pytest.raises(AuthoringError, match="are needed and 100 MiB are free"):
            stickplan.demand_room(files, FAT, directories=0)

    @pytest.mark.parametrize(("size", "fits"), [(2**32 - 1, True), (2**32, False)])
    def test_fat_holds_no_file_of_4_gib(self, size: int, *, fits: bool) -> None:
        room = replace(FAT, free_bytes=1 << 40)
        if fits:
            stickplan.demand_room([StickFile("big", size)], room, directories=0)
            return
        with pytest.raises(AuthoringError, match="FAT holds files up to 4294967295"):
            stickplan.demand_room([StickFile("big", size)], room, directories=0)

    def test_exfat_does(self) -> None:
        room = replace(FAT, fs_type="exfat", free_bytes=1 << 40)

        stickplan.demand_room([StickFile("big", 2**32)], room, directories=0)

    def test_a_file_system_that_no_device_mounts_is_refused(self) -> None:
        with pytest.raises(AuthoringError, match="'ntfs3', which no device mounts"):
            stickplan.demand_room([], replace(FAT, fs_type="ntfs3"), directories=0)

    def test_what_is_there_in_its_size_is_not_missing(self) -> None:
        held = {"a": 1, "b": 2}

        assert stickplan.missing(tree("a", "b", "c"), held) == tree("b", "c").files
