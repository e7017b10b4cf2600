"""``stick make --format``: what is shown, what is refused, and the whole way to an update."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.core.authoring import AuthoringError
from agent.core.errors import AgentError
from agent.core.stickplan import Disk
from agent.faces import stick as face
from agent.faces.cli import Parser, usb_update
from agent.services.stickmaker import StickDesk
from agent.wiring_stick import stick_desk
from tests import udevd
from tests.field import Answer, Field, typed
from tests.loop_sticks import Stick, make_ext4, plugged
from tests.service import plugged_in, results_on, serving, until
from tests.stick_desk import maker, mounted

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_ostree]

SIZE = 64 << 20


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Field:
    return Field(tmp_path_factory.mktemp("field"))


@pytest.fixture(scope="module")
def bundle(field: Field) -> Path:
    return field.bundle(2)


@pytest.fixture
def stick(tmp_path: Path) -> Iterator[Stick]:
    image = make_ext4(tmp_path / "stick.img", {"photo.jpg": b"mine"}, label="PHOTOS", size=SIZE)
    with plugged(image) as stick:
        yield stick


@pytest.fixture
def desk(field: Field) -> StickDesk:
    return maker(field.workshop.desk())


def make(desk: StickDesk, *words: object) -> Answer:
    """Type ``stick make`` at a desk that takes a loop device for a stick."""

    def main(argv: list[str]) -> int:
        parser = Parser()
        face.add_commands(parser.add_subparsers(parser_class=Parser))
        args: argparse.Namespace = parser.parse_args(["stick", "make", *argv])
        return face.make(desk, args)

    return typed(main, *map(str, words))


class TestShowing:
    def test_without_yes_it_shows_what_would_be_lost(self, desk: StickDesk, stick: Stick) -> None:
        before = stick.image.read_bytes()
        answer = make(desk, "--format", "vfat", stick.devnode)

        assert answer.code == 2
        assert f"  {stick.devnode}: ext4 'PHOTOS', 64 MiB" in answer.stdout
        assert "Nothing was touched. With --yes it is done." in answer.stdout
        assert stick.image.read_bytes() == before

    def test_without_yes_for_programs(self, desk: StickDesk, stick: Stick, bundle: Path) -> None:
        answer = make(desk, "--format", "vfat", "--json", stick.devnode, bundle)

        assert answer.code == 2
        assert answer.json["formatted"] is None
        assert len(answer.json["would_lose"]) == 2


class TestRefused:
    @pytest.mark.parametrize("yes", [[], ["--yes"]])
    def test_what_is_mounted(self, desk: StickDesk, stick: Stick, yes: list[str]) -> None:
        with mounted(stick) as place:
            fresh = maker(desk.desk)  # as a command that starts now sees the mount table
            with pytest.raises(AuthoringError, match=f"mounted at '{place}'"):
                make(fresh, "--format", "vfat", *yes, stick.devnode)

            assert (place / "photo.jpg").read_bytes() == b"mine"

    def test_what_was_mounted_meanwhile(self, desk: StickDesk, stick: Stick) -> None:
        with mounted(stick) as place:
            with pytest.raises(AuthoringError, match="cannot be opened"):
                make(desk, "--format", "vfat", "--yes", stick.devnode)

            assert (place / "photo.jpg").read_bytes() == b"mine"

    def test_a_directory(self, desk: StickDesk, stick: Stick) -> None:
        with mounted(stick) as place, pytest.raises(AuthoringError, match="a directory was named"):
            make(desk, "--format", "vfat", "--yes", place)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"system": True}, "the disk this system runs from"),
            ({"removable": False}, "no removable medium"),
            ({"read_only": True}, "write-protected"),
        ],
    )
    def test_what_is_no_stick_to_write_on(
        self, desk: StickDesk, stick: Stick, change: dict[str, bool], words: str
    ) -> None:
        def disk(path: Path) -> Disk:
            return replace(desk.disk(path), **change)  # type: ignore[arg-type]

        before = stick.image.read_bytes()
        with pytest.raises(AuthoringError, match=words):
            make(replace(desk, disk=disk), "--format", "ext4", "--yes", stick.devnode)

        assert stick.image.read_bytes() == before

    def test_a_name_that_will_not_do_is_told_before_anything_is_erased(
        self, desk: StickDesk, stick: Stick, bundle: Path
    ) -> None:
        before = stick.image.read_bytes()
        for words in (f"tuf={bundle}", f"a={bundle} A={bundle}"):
            with pytest.raises(AuthoringError):
                make(desk, "--format", "ext4", "--yes", stick.devnode, *words.split())

        assert stick.image.read_bytes() == before

    def test_the_disk_of_this_system(self, capsys: pytest.CaptureFixture[str]) -> None:
        disks = sorted(Path("/sys/dev/block").iterdir())
        system = stick_desk()
        for number in disks:
            devnode = Path("/dev", number.resolve().name)
            if devnode.is_block_device() and not system.disk(devnode).removable:
                assert usb_update(["stick", "make", "--format", "vfat", str(devnode)]) == 1
                assert capsys.readouterr().out == ""


class TestFormatted:
    def test_a_new_stick_with_a_bundle(self, desk: StickDesk, stick: Stick, bundle: Path) -> None:
        answer = make(
            desk, "--format", "ext4", "--yes", "--label", "ROOF-7", stick.devnode, f"one={bundle}"
        )
        with mounted(stick) as place:
            found = sorted(path.name for path in place.iterdir())

        assert answer.code == 0
        assert answer.stdout.endswith("The stick may be pulled out.\n")
        assert found == ["lost+found", "usb-update"]
        assert desk.disk(Path(stick.devnode)).named.label == "ROOF-7"

    def test_for_programs(self, desk: StickDesk, stick: Stick, bundle: Path) -> None:
        told = json.loads(
            make(desk, "--format", "ext4", "--yes", "--json", stick.devnode, bundle).stdout
        )

        assert told["formatted"] == "ext4"
        assert told["may_be_pulled_out"] is True
        assert told["written"][0]["targets"] == ["board-lmp-2"]

    def test_a_file_system_alone(self, desk: StickDesk, stick: Stick) -> None:
        answer = make(desk, "--format", "vfat", "--yes", stick.devnode)

        assert answer.code == 0
        assert desk.disk(Path(stick.devnode)).named.fs_type == "vfat"


@pytest.mark.needs_udev
class TestWholeWay:
    def test_format_write_plug_in_and_walk_away(
        self, desk: StickDesk, field: Field, bundle: Path, tmp_path: Path
    ) -> None:
        image = make_ext4(tmp_path / "stick.img", {"photo.jpg": b"mine"}, size=SIZE)
        other = field.bundle(3, tag="devel")
        with plugged(image) as stick:
            words = ("--format", "ext4", "--yes", stick.devnode, f"one={bundle}", f"two={other}")
            assert make(desk, *words).code == 0
        with udevd.running(), serving(field.device(tmp_path / "device")) as served:
            with plugged_in(image):
                until(lambda: served.reboots, "a reboot")
                served.reboot()
                until(lambda: ("run", 0) in served.codes and not served.owed, "the run's record")
            current = served.device.current()["target"]
        records = [(record.kind.value, record.answer.code) for record in results_on(image)]

        assert current == "board-lmp-2"
        assert records[:2] == [("install", 100), ("run", 0)]


def test_what_fails_is_one_of_ours(desk: StickDesk) -> None:
    with pytest.raises(AgentError):
        make(desk, "--format", "ext4", "--yes", "/nowhere")
