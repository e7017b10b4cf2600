"""``stick doctor``: everything that makes a device refuse a stick, and what is harmless to mend."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.adapters.authoring import stickprobe
from agent.core.authoring import AuthoringError
from agent.core.bundletype import BundleType
from agent.core.finding import Finding, Level
from agent.faces.cli import usb_update
from agent.services import stickdoctor
from agent.services.author import DeviceGuess
from agent.services.stickdoctor import Profile
from tests.field import Answer, Field, typed
from tests.loop_sticks import Stick
from tests.stick_desk import maker, mounted, stick_in_port

pytestmark = [pytest.mark.needs_ostree]


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Field:
    return Field(tmp_path_factory.mktemp("field"))


@pytest.fixture(scope="module")
def good(field: Field) -> Path:
    """A bundle with an App."""
    return field.bundle(2, apps=(field.app("web"),), images=(field.image(),))


@pytest.fixture
def tree(field: Field, good: Path, tmp_path: Path) -> Path:
    """What will be copied to a stick: one good bundle."""
    field.copy(good, tmp_path / "stick/usb-update/one")
    return tmp_path / "stick"


def bundle_on(tree: Path) -> Path:
    return tree / "usb-update/one"


def doctor(field: Field, tree: Path, *words: object) -> Answer:
    """Type the command for a device of the field."""
    roots = field.workshop.keys / "roots"
    return typed(
        usb_update, "stick", "doctor", tree, "--roots", roots, *map(str, words), "--tag", "main"
    )


def failures(answer: Answer) -> list[str]:
    return [found["message"] for found in answer.json["findings"] if found["level"] == "fail"]


class TestFindings:
    def test_a_good_stick_has_none(self, field: Field, tree: Path) -> None:
        answer = doctor(field, tree, "--deep", "--hardware-id", "board", "--type", "ci")

        assert answer.code == 0
        assert "ok    usb-update/one  the device would install board-lmp-2" in answer.stdout

    @pytest.mark.parametrize(
        ("words", "code"),
        [
            (["--tag", "devel"], 0),  # one tag of several suffices
            (["--hardware-id", "other"], 6),
            (["--type", "prod"], 15),
        ],
    )
    def test_another_device(self, field: Field, tree: Path, words: list[str], code: int) -> None:
        answer = doctor(field, tree, *words, "--json")

        assert answer.code == (2 if code else 0)
        assert not code or f"would answer {code}:" in failures(answer)[0]

    def test_another_tag(self, field: Field, tree: Path) -> None:
        answer = typed(usb_update, "stick", "doctor", tree, "--tag", "devel", "--json")

        assert answer.code == 2
        assert "would answer 15: bundle tag 'main'" in failures(answer)[0]

    def test_a_device_is_named_by_its_configuration(
        self, field: Field, tree: Path, tmp_path: Path
    ) -> None:
        device = field.device(tmp_path / "device")
        argv = ("stick", "doctor", tree, "--profile", device.config)
        before = typed(usb_update, *argv)
        device.configure("pacman", tags="devel")
        after = typed(usb_update, *argv)

        assert (before.code, after.code) == (0, 2)
        assert "warn  usb-update/one" not in before.stdout

    def test_roots_that_are_not_known_are_a_warning(self, tree: Path) -> None:
        answer = typed(usb_update, "stick", "doctor", tree)

        assert answer.code == 0
        assert "whether the device trusts them is not known" in answer.stdout

    def test_files_of_macos_among_the_apps(self, field: Field, tree: Path) -> None:
        (bundle_on(tree) / "apps/apps/._web").write_bytes(b"\x00\x05\x16\x07")
        answer = doctor(field, tree, "--json")

        assert answer.code == 2
        assert "is no App directory" in failures(answer)[0]

    def test_a_line_end_in_uri(self, field: Field, tree: Path) -> None:
        uri = next(bundle_on(tree).glob("apps/apps/*/*/uri"))
        uri.write_bytes(uri.read_bytes() + b"\n")
        answer = doctor(field, tree, "--json")

        assert answer.code == 2
        assert any("ends in a line end" in message for message in failures(answer))

    def test_a_missing_commit(self, field: Field, tree: Path) -> None:
        next(bundle_on(tree).glob("ostree_repo/objects/*/*.commit")).unlink()

        assert "would answer 8:" in failures(doctor(field, tree, "--json"))[0]

    @pytest.mark.parametrize("what", ["missing", "damaged"])
    def test_a_blob_is_read_when_asked_to(self, field: Field, tree: Path, what: str) -> None:
        largest = max(
            bundle_on(tree).glob("apps/blobs/sha256/*"), key=lambda path: path.stat().st_size
        )
        if what == "missing":
            largest.unlink()
        else:
            with largest.open("r+b") as file:
                file.write(b"other")
        shallow, deep = doctor(field, tree), doctor(field, tree, "--deep", "--json")

        assert (shallow.code, deep.code) == (0, 2)
        assert any(largest.name in message for message in failures(deep))

    def test_a_damaged_ostree_object(self, field: Field, tree: Path) -> None:
        some = next(bundle_on(tree).glob("ostree_repo/objects/*/*.filez"))
        some.write_bytes(bytes(some.stat().st_size))

        assert doctor(field, tree, "--deep").code == 2

    def test_a_stick_on_hold(self, field: Field, tree: Path) -> None:
        (tree / "usb-update.hold").write_bytes(b"")

        assert "install nothing" in failures(doctor(field, tree, "--json"))[0]

    def test_a_bundle_that_lies_too_deep(self, field: Field, tree: Path) -> None:
        (tree / "a/b").mkdir(parents=True)
        bundle_on(tree).rename(tree / "a/b/one")
        answer = doctor(field, tree, "--json")

        assert "lies too deep" in failures(answer)[0]
        assert "there is no bundle" in failures(answer)[1]
        assert answer.json["findings"][1]["hint"] == f"move it to '{tree}/usb-update/one'"

    def test_a_bundle_that_is_not_whole(self, field: Field, tree: Path) -> None:
        (bundle_on(tree) / "tuf/bundle-targets.json").unlink()

        assert "it is not finished" in failures(doctor(field, tree, "--json"))[0]

    @pytest.mark.parametrize(
        ("days", "level", "words"),
        [(20, Level.WARN, "for 9 more days"), (31, Level.FAIL, "would answer 12")],
    )
    def test_time(self, field: Field, tree: Path, days: int, level: Level, words: str) -> None:
        later = datetime.now(UTC) + timedelta(days=days)
        desk = maker(replace(field.workshop.desk(), now=lambda: later))
        found = stickdoctor.examine_stick(desk, tree, profile(field), deep=False)

        assert any(one.level is level and words in one.message for one in found)

    @pytest.mark.parametrize("where", ["/nowhere", "/dev/null", "/etc/hostname"])
    def test_what_cannot_be_examined_is_a_sentence(self, field: Field, where: str) -> None:
        answer = doctor(field, Path(where))

        assert answer.code == 1
        assert answer.stderr.strip()
        assert "internal error" not in answer.stderr


def profile(field: Field, *filesystems: str) -> Profile:
    guess = DeviceGuess(field.workshop.keys / "roots", BundleType.CI, ("main",), "board")
    return Profile(guess, filesystems or ("ext4",))


class TestFix:
    def test_what_is_harmless_is_mended(self, field: Field, tree: Path, good: Path) -> None:
        uri = next(bundle_on(tree).glob("apps/apps/*/*/uri"))
        before = uri.read_bytes()
        uri.write_bytes(before + b"\r\n")
        (bundle_on(tree) / "apps/apps/._web").write_bytes(b"x")
        (bundle_on(tree) / "apps/apps/.DS_Store").write_bytes(b"x")
        answer = doctor(field, tree, "--fix", "--deep")

        assert answer.code == 0
        assert answer.stdout.count("mended") == 3
        assert uri.read_bytes() == before
        assert [path.name for path in (bundle_on(tree) / "apps/apps").iterdir()] == ["web"]

    def test_what_a_person_put_there_stays(self, field: Field, tree: Path) -> None:
        note = bundle_on(tree) / "apps/apps/note.txt"
        note.write_text("do not lose me")

        assert doctor(field, tree, "--fix").code == 2
        assert note.read_text() == "do not lose me"

    def test_nothing_is_mended_through_a_link(
        self, field: Field, tree: Path, tmp_path: Path
    ) -> None:
        elsewhere = tmp_path / "elsewhere"
        (bundle_on(tree) / "apps/apps").rename(elsewhere)
        (elsewhere / "._web").write_bytes(b"x")
        (bundle_on(tree) / "apps/apps").symlink_to(elsewhere)
        answer = doctor(field, tree, "--fix")

        assert answer.code == 1
        assert "cannot be mended" in answer.stderr
        assert (elsewhere / "._web").exists()

    def test_nothing_is_changed_without_being_asked(self, field: Field, tree: Path) -> None:
        junk = bundle_on(tree) / "apps/apps/._web"
        junk.write_bytes(b"x")
        doctor(field, tree, "--deep")

        assert junk.exists()


@pytest.mark.needs_root
class TestSticks:
    @pytest.fixture
    def stick(self, tmp_path: Path) -> Iterator[Stick]:
        with stick_in_port(tmp_path) as stick:
            yield stick

    def visit(self, field: Field, where: Path, *filesystems: str) -> tuple[Finding, ...]:
        return stickdoctor.visit(
            maker(field.workshop.desk()),
            where,
            profile(field, *filesystems),
            deep=False,
            fix=False,
            probe=False,
        )

    @pytest.mark.parametrize(
        ("filesystems", "level"), [(("ext4",), Level.OK), (("vfat", "exfat"), Level.FAIL)]
    )
    def test_a_file_system_that_the_device_does_not_mount(
        self, field: Field, stick: Stick, filesystems: tuple[str, ...], level: Level
    ) -> None:
        found = self.visit(field, Path(stick.devnode), *filesystems)

        assert found[0].level is level
        assert found[0].message.startswith("ext4")

    def test_a_look_leaves_no_trace(self, field: Field, stick: Stick) -> None:
        before = stick.image.read_bytes()
        self.visit(field, Path(stick.devnode))

        assert stick.image.read_bytes() == before

    def test_a_system_disk_is_not_even_mounted(self, field: Field, stick: Stick) -> None:
        answer = doctor(field, Path(stick.devnode))

        assert answer.code == 1
        assert "is no removable medium" in answer.stderr

    def test_a_directory_of_the_system_disk_is_not_filled(self, field: Field, tree: Path) -> None:
        answer = doctor(field, tree, "--probe-capacity")

        assert answer.code == 1
        assert not (tree / "usb-update-probe").exists()


@pytest.mark.needs_root
class TestCapacity:
    @pytest.fixture
    def stick(self, tmp_path: Path) -> Iterator[Stick]:
        with stick_in_port(tmp_path) as stick:
            yield stick

    @pytest.fixture
    def place(self, stick: Stick) -> Iterator[Path]:
        with mounted(stick) as place:
            yield place

    def probe(self, place: Path, written: Callable[[], None] = lambda: None) -> stickprobe.Probed:
        return stickprobe.probe_capacity(place, lambda *_: None, written=written)

    def test_an_honest_stick(self, place: Path) -> None:
        (place / "mine").write_bytes(b"x")
        probed = self.probe(place)

        assert probed.written_bytes > 15 << 20
        assert (probed.bad_bytes, probed.first_bad) == (0, None)
        assert sorted(path.name for path in place.iterdir()) == ["lost+found", "mine"]

    def test_a_stick_that_loses_what_is_beyond(self, stick: Stick, place: Path) -> None:
        real = 16 << 20

        def forget() -> None:
            with stick.image.open("r+b") as file:
                file.seek(real)
                file.write(bytes(stick.image.stat().st_size - real))

        probed = self.probe(place, forget)

        assert 5 << 20 < probed.bad_bytes < probed.written_bytes
        assert probed.first_bad is not None

    def test_a_stick_whose_end_is_its_beginning(self, stick: Stick, place: Path) -> None:
        """Each block is sound as such; it is only another one's."""

        def wrap() -> None:
            file = place / stickprobe.DIRECTORY / "000000.bin"
            data = bytearray(stick.image.read_bytes())
            mib = stickprobe.CHUNK_BYTES
            written = file.read_bytes()
            first, last = written[:4096], written[-mib:][:4096]
            at, other = data.find(first), data.find(last)
            assert -1 not in (at, other)
            with stick.image.open("r+b") as image:
                image.seek(at)
                image.write(data[other : other + 4096])

        probed = self.probe(place, wrap)

        assert (probed.bad_bytes, probed.first_bad) == (stickprobe.CHUNK_BYTES, 0)

    def test_a_stick_that_stops_answering(self, stick: Stick, place: Path) -> None:
        def stop() -> None:
            os.truncate(stick.image, 0)

        probed = self.probe(place, stop)

        assert probed.bad_bytes == probed.written_bytes

    def test_what_a_killed_probe_left_is_removed(self, place: Path) -> None:
        (place / stickprobe.DIRECTORY).mkdir()
        (place / stickprobe.DIRECTORY / "000000.bin").write_bytes(bytes(10 << 20))

        assert self.probe(place).written_bytes > 15 << 20
        assert not (place / stickprobe.DIRECTORY).exists()

    def test_a_write_protected_stick_cannot_be_probed(self, place: Path) -> None:
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)

        with pytest.raises(AuthoringError, match="cannot be probed"):
            self.probe(place)

    def test_the_finding_is_a_sentence_and_a_number(
        self, field: Field, stick: Stick, place: Path
    ) -> None:
        desk = maker(field.workshop.desk())
        found = stickdoctor.visit(desk, place, profile(field), deep=False, fix=False, probe=True)

        assert found[-1].topic == "capacity"
        assert found[-1].level is Level.OK


def test_for_programs(field: Field, tree: Path) -> None:
    told = json.loads(doctor(field, tree, "--json").stdout)

    assert told["level"] == "warn"  # a directory is no stick
    assert {"level", "topic", "message", "hint"} == set(told["findings"][0])
