"""``stick make``: on real ext4 sticks, interrupted, lied to, and installed from."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.adapters.authoring import stickfiles
from agent.adapters.medium import find_bundles
from agent.core.authoring import AuthoringError
from agent.core.bundletype import BundleType
from agent.core.stickplan import Disk, Part, StickFile, Tree
from agent.faces.cli import usb_update
from agent.services import stickmaker
from agent.services.stickmaker import StickDesk, Written
from tests import kills
from tests.authoring_desk import Workshop, files_below, workshop
from tests.field import Field
from tests.loop_sticks import Stick, make_blank
from tests.ostree_device import make_commit
from tests.result_media import fat_stick
from tests.stick_desk import at, maker, mounted, overwrite, stick_in_port

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_ostree]

MARKER = b"This very line is looked for in the image of the stick.\n" * 20


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Field:
    return Field(tmp_path_factory.mktemp("field"))


@pytest.fixture(scope="module")
def bundle(field: Field) -> Path:
    """A bundle with an App."""
    return field.bundle(2, apps=(field.app("web"),), images=(field.image(),))


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    shop = workshop(tmp_path / "shop")
    shop.now = datetime.now(UTC)
    shop.create()
    return shop


@pytest.fixture
def stick(tmp_path: Path) -> Iterator[Stick]:
    with stick_in_port(tmp_path) as stick:
        yield stick


@pytest.fixture
def place(stick: Stick) -> Iterator[Path]:
    with mounted(stick) as place:
        yield place


@pytest.fixture
def desk(field: Field) -> StickDesk:
    return maker(field.workshop.desk())


def make(desk: StickDesk, where: Path, **bundles: Path) -> tuple[Written, ...]:
    return stickmaker.make_stick(desk, where, list(bundles.items()))


def watched(desk: StickDesk, progress: object) -> StickDesk:
    return replace(desk, desk=replace(desk.desk, progress=progress))  # type: ignore[arg-type]


def content(bundle: Path) -> dict[str, bytes]:
    """What of a bundle must be on a stick."""
    found = files_below(bundle)
    return {name: data for name, data in found.items() if not name.startswith("ostree_repo/tmp/")}


class TestWriting:
    def test_a_bundle_is_on_the_stick_byte_for_byte(
        self, desk: StickDesk, place: Path, bundle: Path
    ) -> None:
        (written,) = make(desk, place, one=bundle)

        assert content(bundle) == files_below(place / "usb-update/one")
        assert find_bundles(place) == (place / "usb-update/one",)
        assert written.targets == ("board-lmp-2",)
        assert written.size_bytes == written.written_bytes > 0

    def test_the_devices_node_will_do(self, desk: StickDesk, stick: Stick, bundle: Path) -> None:
        make(desk, Path(stick.devnode), one=bundle)
        with mounted(stick) as place:
            assert content(bundle) == files_below(place / "usb-update/one")

    def test_bundles_lie_side_by_side(
        self, desk: StickDesk, place: Path, bundle: Path, shop: Workshop
    ) -> None:
        make(desk, place, one=bundle, two=shop.bundle)

        assert [path.name for path in find_bundles(place)] == ["one", "two"]

    def test_what_is_there_is_read_and_not_written_again(
        self, desk: StickDesk, place: Path, bundle: Path
    ) -> None:
        make(desk, place, one=bundle)
        before = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
        (again,) = make(desk, place, one=bundle)

        assert again.written_bytes == 0
        assert before == {path: path.stat().st_mtime_ns for path in before}

    def test_a_newer_bundle_takes_the_place_of_the_older(
        self, desk: StickDesk, place: Path, shop: Workshop
    ) -> None:
        make(desk, place, one=shop.bundle)
        old = shop.bundle
        newer = shop.create(43, destination=shop.path / "newer").path
        (written,) = make(desk, place, one=newer)

        assert content(newer) == files_below(place / "usb-update/one")
        assert content(old) != content(newer)
        assert written.removed > 0

    def test_what_systems_leave_about_stays_behind(
        self, desk: StickDesk, place: Path, field: Field, bundle: Path, tmp_path: Path
    ) -> None:
        littered = field.copy(bundle, tmp_path / "littered")
        (littered / "apps/apps/._web").write_bytes(b"x")
        (littered / "ostree_repo/.DS_Store").write_bytes(b"x")
        (littered / "tuf/._targets.json").write_bytes(b"x")
        make(desk, place, one=littered)

        assert content(bundle) == files_below(place / "usb-update/one")

    @pytest.mark.skipif(not shutil.which("mcopy"), reason="no mtools here")
    def test_a_fat_stick_would_hold_it_as_it_is(
        self, desk: StickDesk, place: Path, bundle: Path, tmp_path: Path
    ) -> None:
        make(desk, place, one=bundle)
        fat, back = make_blank(tmp_path / "fat.img", size=64 << 20), tmp_path / "back"
        back.mkdir()
        subprocess.run(["mkfs.vfat", fat], check=True, capture_output=True)
        subprocess.run(["mcopy", "-s", "-i", fat, place / "usb-update", "::"], check=True)
        subprocess.run(["mcopy", "-s", "-i", fat, "::usb-update", back], check=True)

        assert files_below(place / "usb-update") == files_below(back / "usb-update")


class TestPacks:
    """A bundle in one file: on the stick it is one file as well."""

    @pytest.fixture
    def packed(self, shop: Workshop) -> Path:
        shop.pack("update-42.usbu")
        return shop.path / "update-42.usbu"

    def make(self, desk: StickDesk, place: Path, pack: Path, name: str = "") -> Written:
        (written,) = stickmaker.make_stick(desk, place, [(name or pack.name, pack)])
        return written

    def test_it_is_on_the_stick_byte_for_byte_and_a_device_finds_it(
        self, desk: StickDesk, place: Path, packed: Path
    ) -> None:
        written = self.make(desk, place, packed)

        assert files_below(place / "usb-update") == {packed.name: packed.read_bytes()}
        assert find_bundles(place) == (place / "usb-update" / packed.name,)
        assert written.written_bytes == packed.stat().st_size
        assert written.targets

    def test_beside_a_directory(
        self, desk: StickDesk, place: Path, packed: Path, bundle: Path
    ) -> None:
        stickmaker.make_stick(desk, place, [("one", bundle), ("two.usbu", packed)])

        assert [path.name for path in find_bundles(place)] == ["one", "two.usbu"]

    def test_what_is_there_is_read_and_not_written_again(
        self, desk: StickDesk, place: Path, packed: Path
    ) -> None:
        self.make(desk, place, packed)

        assert self.make(desk, place, packed).written_bytes == 0

    def test_one_that_is_torn_is_written_anew(
        self, desk: StickDesk, place: Path, packed: Path
    ) -> None:
        self.make(desk, place, packed)
        there = place / "usb-update" / packed.name
        there.write_bytes(bytes(there.stat().st_size))
        self.make(desk, place, packed)

        assert there.read_bytes() == packed.read_bytes()

    def test_until_it_was_read_back_devices_see_none(
        self, desk: StickDesk, place: Path, packed: Path
    ) -> None:
        def pulled() -> None:
            raise PulledOutError

        with pytest.raises(PulledOutError):
            self.make(watched(desk, at("reading back", pulled)), place, packed)
        assert find_bundles(place) == ()

        self.make(desk, place, packed)
        assert files_below(place / "usb-update") == {packed.name: packed.read_bytes()}

    def test_a_stick_that_gives_back_other_bytes_is_found_out(
        self, desk: StickDesk, stick: Stick, place: Path, packed: Path
    ) -> None:
        marker = packed.read_bytes()[-4096:]

        def lie() -> None:
            overwrite(stick.image, marker, bytes(len(marker)))

        with pytest.raises(AuthoringError, match="gave back other bytes"):
            self.make(watched(desk, at("reading back", lie)), place, packed)
        assert find_bundles(place) == ()

    def test_a_name_devices_would_not_look_at_is_refused(
        self, desk: StickDesk, place: Path, packed: Path, bundle: Path
    ) -> None:
        with pytest.raises(AuthoringError, match=r"expected a name that ends in '\.usbu'"):
            self.make(desk, place, packed, "update-42")
        with pytest.raises(AuthoringError, match=r"expected one without '\.usbu'"):
            stickmaker.make_stick(desk, place, [("one.usbu", bundle)])
        assert files_below(place) == {}

    @pytest.mark.parametrize("linked", ["usb-update", "usb-update/update-42.usbu"])
    def test_nothing_is_written_through_a_link(
        self, desk: StickDesk, place: Path, packed: Path, linked: str, tmp_path: Path
    ) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        link = place / linked
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(elsewhere)

        with pytest.raises(AuthoringError, match="on the stick cannot be used"):
            self.make(desk, place, packed)
        assert list(elsewhere.iterdir()) == []

    def test_a_half_written_one_that_is_a_link_is_replaced(
        self, desk: StickDesk, place: Path, packed: Path, tmp_path: Path
    ) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.write_bytes(b"theirs")
        part = place / "usb-update" / f".{packed.name}.part"
        part.parent.mkdir()
        part.symlink_to(elsewhere)
        self.make(desk, place, packed)

        assert elsewhere.read_bytes() == b"theirs"
        assert (place / "usb-update" / packed.name).read_bytes() == packed.read_bytes()

    def test_a_damaged_one_does_not_reach_the_stick(
        self, desk: StickDesk, place: Path, packed: Path
    ) -> None:
        data = bytearray(packed.read_bytes())
        data[len(data) // 2] ^= 1
        packed.write_bytes(data)

        with pytest.raises(AuthoringError, match="a device would refuse"):
            self.make(desk, place, packed)
        assert files_below(place) == {}

    def test_wherever_it_was_cut_devices_see_the_older_one(
        self, desk: StickDesk, stick: Stick, packed: Path, shop: Workshop
    ) -> None:
        shop.create(43, allow_multiple_targets=True)
        shop.pack("newer.usbu")
        newer, cuts = shop.path / "newer.usbu", 0
        with mounted(stick) as place:
            self.make(desk, place, packed, "one.usbu")
            there = place / "usb-update/one.usbu"
            for fuse in range(1, 99):
                try:
                    self.make(watched(desk, _fuse(fuse)), place, newer, "one.usbu")
                except PulledOutError:
                    cuts += 1
                    assert there.read_bytes() == packed.read_bytes()
                    assert find_bundles(place) == (there,)
                else:
                    break

            assert files_below(place / "usb-update") == {"one.usbu": newer.read_bytes()}
        assert cuts > 3

    def test_killed_anywhere_the_next_one_goes_on(
        self, desk: StickDesk, place: Path, packed: Path
    ) -> None:
        def whole() -> None:
            self.make(desk, place, packed, "one.usbu")

        total = kills.changes(whole)
        (place / "usb-update/one.usbu").unlink()
        for point, told in kills.some(total, 6):
            kills.killed_at(whole, point)
            whole()
            assert files_below(place / "usb-update") == {"one.usbu": packed.read_bytes()}, told
            (place / "usb-update/one.usbu").unlink()

    def test_one_too_long_for_fat_is_refused(
        self, desk: StickDesk, place: Path, packed: Path
    ) -> None:
        tree = Tree((), (StickFile(stickfiles.PACK, 2**32),))
        fat = replace(
            desk,
            tree=lambda _: tree,
            pack=lambda where, name: stickfiles.StickPack(where, name, "vfat"),
        )
        with pytest.raises(AuthoringError, match="has 4294967296 bytes; FAT holds") as caught:
            self.make(fat, place, packed)

        assert "exFAT" in caught.value.hint


def test_two_at_once_do_not_write_one_stick(desk: StickDesk, place: Path, bundle: Path) -> None:
    with desk.alone(place), pytest.raises(AuthoringError, match="writes this stick"):
        make(desk, place, one=bundle)

    make(desk, place, one=bundle)
    assert [path.name for path in (place / "usb-update").iterdir()] == ["one"]


class TestOnFat:
    """A real FAT, by the kernel or by FUSE; by FUSE, its disk and type are told by the test."""

    @pytest.fixture
    def fat(self, tmp_path: Path) -> Iterator[Path]:
        with fat_stick(tmp_path) as place:
            yield place

    def maker(self, desk: StickDesk) -> StickDesk:
        disk = Disk(
            name="sdb",
            devnode="/dev/sdb1",
            by_directory=True,
            model="",
            removable=True,
            system=False,
            read_only=False,
            parts=(Part("/dev/sdb1", "8:17", 40 << 20, "vfat"),),
        )
        return replace(
            desk,
            disk=lambda _: disk,
            fs_type=lambda _: "vfat",
            stick=lambda place, name: stickfiles.StickDirectory(place, name, "vfat"),
        )

    def test_every_name_and_byte_of_the_content_survives(self, fat: Path, bundle: Path) -> None:
        stick, tree = stickfiles.StickDirectory(fat, "one", "vfat"), stickfiles.read_tree(bundle)
        stick.write(bundle, tree, tree.files, lambda *_: None)
        there = {name: data for name, data in content(bundle).items() if not name.startswith("tuf")}

        assert stick.differing(bundle, tree.files, lambda *_: None) == ()
        assert files_below(fat / "usb-update/one") == there
        assert stick.held() == {file.path: file.size for file in tree.files}

    def test_a_stick_that_is_said_to_be_whole_is(
        self, desk: StickDesk, fat: Path, bundle: Path
    ) -> None:
        """A driver that loses what lies in a renamed directory (fusefat does) is found out."""
        refused = ""
        try:
            make(self.maker(desk), fat, one=bundle)
        except AuthoringError as e:
            refused = e.message
        whole = content(bundle) == files_below(fat / "usb-update/one")

        assert whole != ("was not kept" in refused)
        assert whole != bool(refused)


class PulledOutError(BaseException):
    """Not an Exception: nothing may handle it."""


class TestInterrupted:
    def test_wherever_it_was_cut_repeating_gives_the_same_stick(
        self, desk: StickDesk, stick: Stick, shop: Workshop
    ) -> None:
        newer = shop.create(43, destination=shop.path / "newer").path
        states = []
        with mounted(stick) as place:
            make(desk, place, one=shop.bundle)
            fuse = 0
            while True:
                fuse += 3
                try:
                    make(watched(desk, _fuse(fuse)), place, one=newer)
                except PulledOutError:
                    states.append(content(place / "usb-update/one/tuf"))
                else:
                    break
                shutil.rmtree(place / "usb-update/one/ostree_repo", ignore_errors=True)
            make(desk, place, one=newer)

            assert content(newer) == files_below(place / "usb-update/one")
        assert len(states) > 5
        assert all(state == content(shop.bundle / "tuf") for state in states)

    def test_killed_anywhere_repeating_gives_the_same_stick(
        self, desk: StickDesk, place: Path, bundle: Path
    ) -> None:
        """Killed, as by a power cut of the desk: no handler of ours runs."""

        def whole() -> None:
            make(desk, place, one=bundle)

        total = kills.changes(whole)
        for point, told in kills.some(total, 10):
            shutil.rmtree(place / "usb-update")
            killed = kills.killed_at(whole, point)
            assert find_bundles(place) in ((), (place / "usb-update/one",)), told
            whole()
            assert killed, told
            assert content(bundle) == files_below(place / "usb-update/one"), told
            assert [path.name for path in (place / "usb-update").iterdir()] == ["one"], told

    def test_a_stick_that_was_pulled_early_shows_no_bundle(
        self, desk: StickDesk, place: Path, bundle: Path
    ) -> None:
        for step in ("writing", "reading back"):
            with pytest.raises(PulledOutError):
                make(watched(desk, at(step, _pull)), place, one=bundle)

            assert find_bundles(place) == ()
        (written,) = make(desk, place, one=bundle)
        assert written.written_bytes == 0
        assert content(bundle) == files_below(place / "usb-update/one")

    def test_what_an_earlier_run_left_torn_is_written_anew(
        self, desk: StickDesk, place: Path, bundle: Path
    ) -> None:
        make(desk, place, one=bundle)
        blob = next((place / "usb-update/one/apps/blobs/sha256").iterdir())
        blob.write_bytes(bytes(blob.stat().st_size))
        make(desk, place, one=bundle)

        assert content(bundle) == files_below(place / "usb-update/one")

    def test_metadata_that_was_half_exchanged_is_mended(
        self, desk: StickDesk, place: Path, bundle: Path
    ) -> None:
        make(desk, place, one=bundle)
        here = place / "usb-update/one"
        (here / "tuf").rename(here / "tuf.old")
        (here / "tuf.new").mkdir()
        (here / "tuf.new/junk").write_bytes(b"x")
        make(desk, place, one=bundle)

        assert content(bundle) == files_below(here)


def _fuse(left: int) -> object:
    def progress(_step: str, _done: int, _total: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise PulledOutError

    return progress


def _pull() -> None:
    raise PulledOutError


class TestSticksThatLie:
    @pytest.fixture
    def marked(self, shop: Workshop) -> Path:
        """A bundle with a file that can be found in the image of a stick."""
        path = shop.create(50, destination=shop.path / "marked").path
        (path / "ostree_repo/extensions").mkdir(exist_ok=True)
        (path / "ostree_repo/extensions/marker").write_bytes(MARKER)
        return path

    def test_a_stick_that_gives_back_other_bytes_is_found_out(
        self, desk: StickDesk, stick: Stick, place: Path, marked: Path
    ) -> None:
        """The kernel's cache still has what was written: only the device itself tells."""
        cached = place / "usb-update/one/ostree_repo/extensions/marker"
        seen: list[bytes] = []

        def lie() -> None:
            overwrite(stick.image, MARKER, MARKER.replace(b"very", b"VERY"))
            seen.append(cached.read_bytes())

        with pytest.raises(AuthoringError, match="gave back other bytes") as e:
            make(watched(desk, at("reading back", lie)), place, one=marked)

        assert seen == [MARKER]
        assert "extensions/marker" in e.value.message
        assert find_bundles(place) == ()

    def test_without_direct_reading_the_cache_is_dropped(self, stick: Stick, place: Path) -> None:
        (place / "marker").write_bytes(MARKER)
        os.sync()
        (place / "marker").read_bytes()
        overwrite(stick.image, MARKER, MARKER.replace(b"very", b"VERY"))
        before = (place / "marker").read_bytes()

        assert before == MARKER
        assert b"VERY" in b"".join(stickfiles.uncached(place / "marker", direct=False))

    def test_a_stick_that_cannot_be_read_is_told_of(
        self, desk: StickDesk, stick: Stick, place: Path, marked: Path
    ) -> None:
        def break_down() -> None:
            os.truncate(stick.image, 0)

        with pytest.raises(AuthoringError, match=r"cannot be read: .*Input/output error"):
            make(watched(desk, at("reading back", break_down)), place, one=marked)

    def test_a_damaged_bundle_does_not_reach_the_stick(
        self, desk: StickDesk, place: Path, field: Field, bundle: Path, tmp_path: Path
    ) -> None:
        damaged = field.copy(bundle, tmp_path / "damaged")
        blob = next((damaged / "apps/blobs/sha256").iterdir())
        blob.write_bytes(bytes(blob.stat().st_size))

        with pytest.raises(AuthoringError, match="a device would refuse the bundle"):
            make(desk, place, one=damaged)
        assert not (place / "usb-update").exists()


class TestRefusals:
    def test_a_bundle_that_lacks_a_signature(
        self, desk: StickDesk, place: Path, shop: Workshop
    ) -> None:
        unsigned = shop.create(44, destination=shop.path / "prod", bundle_type=BundleType.PROD).path

        with pytest.raises(AuthoringError, match=r"would refuse .* with 15"):
            make(desk, place, one=unsigned)

    def test_an_expired_bundle(self, desk: StickDesk, place: Path, shop: Workshop) -> None:
        shop.later(31)

        with pytest.raises(AuthoringError, match=r"would refuse .* with 12"):
            make(maker(shop.desk()), place, one=shop.bundle)

    def test_a_bundle_of_another_factory(
        self, desk: StickDesk, place: Path, shop: Workshop, field: Field
    ) -> None:
        roots = field.workshop.keys / "roots"

        with pytest.raises(AuthoringError, match="would refuse"):
            stickmaker.make_stick(desk, place, [("one", shop.bundle)], roots=roots)

    def test_soon_to_expire_is_only_warned_about(self, place: Path, shop: Workshop) -> None:
        shop.later(20)
        (written,) = make(maker(shop.desk()), place, one=shop.bundle)

        assert written.warnings == ("devices accept it for 9 more days",)

    def test_a_stick_that_is_too_small(
        self, desk: StickDesk, place: Path, shop: Workshop, tmp_path: Path
    ) -> None:
        big = shop.create(
            45,
            destination=shop.path / "big",
            ref=make_commit(shop.repo, {"big": os.urandom(40 << 20)}),
        ).path

        with pytest.raises(AuthoringError, match="are needed and"):
            make(desk, place, small=shop.bundle, big=big)
        assert not (place / "usb-update").exists()

    def test_a_stick_with_a_link_where_the_bundle_belongs(
        self, desk: StickDesk, place: Path, bundle: Path, tmp_path: Path
    ) -> None:
        victim = tmp_path / "victim"
        victim.mkdir()
        (place / "usb-update").symlink_to(victim)

        with pytest.raises(AuthoringError, match="cannot be used"):
            make(desk, place, one=bundle)
        assert not list(victim.iterdir())

    def test_a_link_deep_in_an_earlier_bundle(
        self, desk: StickDesk, place: Path, bundle: Path, tmp_path: Path
    ) -> None:
        (place / "usb-update/one").mkdir(parents=True)
        (place / "usb-update/one/apps").symlink_to(tmp_path)

        with pytest.raises(AuthoringError, match="neither a directory nor a regular file"):
            make(desk, place, one=bundle)

    def test_a_directory_where_no_stick_is_mounted(
        self, desk: StickDesk, place: Path, bundle: Path
    ) -> None:
        (place / "below").mkdir()

        with pytest.raises(AuthoringError, match="not where a stick is mounted"):
            make(desk, place / "below", one=bundle)

    def test_a_bundle_in_a_place_that_hides_it(
        self, desk: StickDesk, place: Path, bundle: Path
    ) -> None:
        (place / "usb-update/tuf").mkdir(parents=True)

        with pytest.raises(AuthoringError, match="a device would not find it"):
            make(desk, place, one=bundle)


class TestTyped:
    """The real command: this machine's loop devices and disks are no sticks to it."""

    def typed(self, *words: object) -> int:
        return usb_update(["stick", "make", *map(str, words)])

    def test_a_disk_that_is_no_stick_is_refused_and_untouched(
        self, stick: Stick, bundle: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = hashlib.sha256(stick.image.read_bytes()).digest()

        assert self.typed("--format", "ext4", "--yes", stick.devnode, bundle) == 1
        assert "is no removable medium" in capsys.readouterr().err
        assert self.typed(stick.devnode, bundle) == 1
        assert hashlib.sha256(stick.image.read_bytes()).digest() == before

    @pytest.mark.parametrize("where", ["/", "/proc", "/nowhere", "/dev/null"])
    def test_what_is_no_stick_at_all(
        self, where: str, bundle: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.typed(where, bundle) == 1
        said = capsys.readouterr().err
        assert said.strip()
        assert "internal error" not in said

    def test_nothing_to_do_is_told(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.typed("/media/stick") == 1
        assert "nothing to do" in capsys.readouterr().err

    def test_help_names_the_exit_statuses(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            self.typed("--help")

        assert "2  --format without --yes" in capsys.readouterr().out


class TestInstalledFrom:
    def test_a_device_installs_what_was_written(
        self, desk: StickDesk, stick: Stick, field: Field, bundle: Path, tmp_path: Path
    ) -> None:
        make(desk, Path(stick.devnode), one=bundle)
        device = field.device(tmp_path / "device")
        with mounted(stick) as place:
            device.update(place / "usb-update/one")

        assert device.current()["target"] == "board-lmp-2"

    def test_plan_finds_every_bundle(
        self, desk: StickDesk, place: Path, field: Field, bundle: Path, tmp_path: Path
    ) -> None:
        make(desk, place, one=bundle, two=field.bundle(3))
        said = field.device(tmp_path / "device").usb_update("plan", place)

        assert "board-lmp-2" in said.stdout
        assert "board-lmp-3" in said.stdout
