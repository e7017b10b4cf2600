"""Records on sticks and on the device, with real file systems."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from agent.adapters import resultfiles
from agent.adapters.resultfiles import (
    RESULTS_DIRECTORY,
    DeviceResults,
    StickLetterbox,
    directory_name,
    read_results,
)
from agent.core.outcome import InstallExit
from agent.core.record import RECORD_LIMIT_BYTES, Posted, from_json, to_json, to_text
from tests.factory.records import record
from tests.result_media import IS_ROOT, ext4_stick, fat_stick, run

NAME = "20260102T120100Z-0001"


def on_stick(stick: Path, name: str = NAME) -> Path:
    return stick / RESULTS_DIRECTORY / "pump-07" / f"{name}.json"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# --- writing ---------------------------------------------------------------------------


def test_a_record_arrives_with_its_text_and_nothing_else(tmp_path):
    delivery = StickLetterbox(tmp_path).put(record())

    assert delivery.posted is Posted.WRITTEN
    assert delivery.detail == f"{RESULTS_DIRECTORY}/pump-07/{NAME}.json"
    assert names(on_stick(tmp_path).parent) == [f"{NAME}.json", f"{NAME}.txt"]
    assert on_stick(tmp_path).read_bytes() == to_json(record())
    assert on_stick(tmp_path).with_suffix(".txt").read_bytes() == to_text(record())


def test_a_second_delivery_finds_the_first(tmp_path):
    StickLetterbox(tmp_path).put(record())
    before = state_of(on_stick(tmp_path))

    assert StickLetterbox(tmp_path).put(record()).posted is Posted.ALREADY_THERE
    assert state_of(on_stick(tmp_path)) == before


def state_of(path: Path) -> tuple[int, int, int]:
    """Return what writing would change and reading does not."""
    found = path.lstat()
    return found.st_ino, found.st_size, found.st_mtime_ns


@pytest.mark.parametrize("stick", [ext4_stick, fat_stick])
def test_a_record_survives_unplugging_and_a_file_system_check(tmp_path, stick):
    with stick(tmp_path) as mountpoint:
        assert StickLetterbox(mountpoint).put(record()).arrived
        assert StickLetterbox(mountpoint).put(record()).posted is Posted.ALREADY_THERE
        assert StickLetterbox(mountpoint).put(record(sequence=2)).arrived

        assert read_results(mountpoint).records == (record(), record(sequence=2))
    (source,) = tmp_path.glob("stick.*")
    run("fsck", "-n", source)


def test_a_stick_that_is_write_protected_holds_the_record(tmp_path):
    with ext4_stick(tmp_path, "ro") as stick:
        delivery = StickLetterbox(stick).put(record())

    assert delivery.posted is Posted.READ_ONLY
    assert "write-protected" in delivery.detail


def test_a_full_stick_holds_the_record_and_keeps_no_rubbish(tmp_path):
    with ext4_stick(tmp_path) as stick:
        fill(stick / "film.mkv")
        delivery = StickLetterbox(stick).put(record())

        assert delivery.posted is Posted.FULL
        assert not list(stick.rglob("*.part"))
        assert read_results(stick).records == ()

        (stick / "film.mkv").unlink()
        assert StickLetterbox(stick).put(record()).arrived


def fill(path: Path) -> None:
    """Write until there is no room."""
    with path.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        write_for_ever(file)


def write_for_ever(file) -> None:
    while True:
        file.write(bytes(4096))


def test_a_stick_that_vanished_is_gone(tmp_path):
    assert StickLetterbox(tmp_path / "stick").put(record()).posted is Posted.GONE


def test_nothing_is_written_into_the_directory_a_stick_left_behind(tmp_path):
    with ext4_stick(tmp_path) as stick:
        letterbox = StickLetterbox(stick, stick.stat().st_dev)
        assert letterbox.put(record()).arrived
        subprocess.run(["umount", str(stick)], check=True)

        assert letterbox.put(record(sequence=2)).posted is Posted.GONE
        assert list(stick.iterdir()) == []


@pytest.mark.parametrize("part", [RESULTS_DIRECTORY, f"{RESULTS_DIRECTORY}/pump-07"])
@pytest.mark.parametrize("what", ["link", "file", "fifo"])
def test_attack_16_a_link_or_file_in_the_way_is_refused(tmp_path, part, what):
    """The stick's maker must not lead our writing anywhere else."""
    stick, elsewhere = tmp_path / "stick", tmp_path / "elsewhere"
    (stick / part).parent.mkdir(parents=True)
    elsewhere.mkdir()
    put_in_the_way(stick / part, what, elsewhere)

    assert StickLetterbox(stick).put(record()).posted is Posted.REFUSED
    assert list(elsewhere.iterdir()) == []


def put_in_the_way(path: Path, what: str, elsewhere: Path) -> None:
    if what == "link":
        path.symlink_to(elsewhere)
    elif what == "fifo":
        os.mkfifo(path)
    else:
        path.write_text("mine")


@pytest.mark.parametrize("suffix", [".json", ".txt"])
@pytest.mark.parametrize("what", ["link", "file", "fifo"])
def test_attack_16_an_existing_name_is_never_written_over(tmp_path, suffix, what):
    target = tmp_path / "precious"
    target.write_text("precious")
    taken = on_stick(tmp_path).with_suffix(suffix)
    taken.parent.mkdir(parents=True)
    put_in_the_way(taken, what, target)
    before = state_of(taken)

    delivery = StickLetterbox(tmp_path).put(record())

    assert delivery.posted is Posted.WRITTEN
    assert delivery.detail.endswith(f"{NAME}-2.json")
    assert state_of(taken) == before
    assert target.read_text() == "precious"


def test_attack_16_a_link_under_the_temporary_name_is_not_followed(tmp_path):
    target = tmp_path / "precious"
    target.write_text("precious")
    on_stick(tmp_path).parent.mkdir(parents=True)
    for suffix in ("json", "txt"):
        on_stick(tmp_path).parent.joinpath(f"{NAME}.{suffix}.part").symlink_to(target)

    assert StickLetterbox(tmp_path).put(record()).arrived
    assert target.read_text() == "precious"


def test_another_file_system_mounted_over_the_results_is_refused(tmp_path):
    stick = tmp_path / "outer"
    (stick / RESULTS_DIRECTORY).mkdir(parents=True)
    with ext4_stick(tmp_path) as other:
        run("mount", "--bind", other, stick / RESULTS_DIRECTORY)
        try:
            delivery = StickLetterbox(stick).put(record())
        finally:
            run("umount", stick / RESULTS_DIRECTORY)

    assert delivery.posted is Posted.REFUSED


def test_ten_files_of_the_same_name_are_enough(tmp_path):
    on_stick(tmp_path).parent.mkdir(parents=True)
    for end in ("", *(f"-{n}" for n in range(2, 10))):
        on_stick(tmp_path, f"{NAME}{end}").write_text("other")

    assert StickLetterbox(tmp_path).put(record()).posted is Posted.REFUSED


def test_a_directory_with_ten_thousand_files_is_refused(tmp_path):
    directory = on_stick(tmp_path).parent
    directory.mkdir(parents=True)
    for n in range(10_000):
        os.close(os.open(directory / str(n), os.O_CREAT | os.O_WRONLY))

    delivery = StickLetterbox(tmp_path).put(record())

    assert delivery.posted is Posted.REFUSED
    assert "10000 files" in delivery.detail


def test_a_file_system_without_noreplace_gets_the_record_too(tmp_path, monkeypatch):
    """Some FUSE file systems answer EINVAL; then the name is looked for first."""
    monkeypatch.setattr(resultfiles, "RENAME_NOREPLACE", 1 << 30)

    assert StickLetterbox(tmp_path).put(record()).posted is Posted.WRITTEN
    assert from_json(on_stick(tmp_path).read_bytes()) == record()


def test_a_cut_off_delivery_is_completed(tmp_path):
    """The text was there and the JSON half-written when the stick was pulled."""
    StickLetterbox(tmp_path).put(record())
    on_stick(tmp_path).rename(on_stick(tmp_path).with_suffix(".json.part"))

    assert StickLetterbox(tmp_path).put(record()).posted is Posted.WRITTEN
    assert names(on_stick(tmp_path).parent) == [f"{NAME}.json", f"{NAME}.txt"]


@pytest.mark.parametrize(
    ("name", "directory"),
    [
        ("pump-07", "pump-07"),
        ("Pumpe 7/../..", "Pumpe_7_.._"),
        ("..", "device"),
        ("", "device"),
        ("con", "device_con"),
        ("COM1.txt", "device_COM1.txt"),
        ("-rf", "_rf"),
        ("Лінія", "device"),
        ("Лінія 4", "_4"),
        ("x" * 300, "x" * 64),
    ],
)
def test_a_device_gets_a_directory_fat_can_hold(name, directory):
    assert directory_name(name) == directory


# --- on the device ---------------------------------------------------------------------


@pytest.fixture
def results(tmp_path) -> DeviceResults:
    return DeviceResults(tmp_path / "usb-update" / "results")


def test_records_are_numbered_from_one_and_on_after_reopening(results):
    kept = [results.keep(record(sequence=0)).sequence for _ in range(2)]
    kept.append(DeviceResults(results.directory).keep(record(sequence=0)).sequence)

    assert kept == [1, 2, 3]
    assert [r.sequence for r in results.history()] == kept


def test_a_kept_record_is_owed_until_it_is_settled(results):
    kept = results.keep(record())

    assert DeviceResults(results.directory).owed() == (kept,)
    results.settle(kept)
    results.settle(kept)
    assert DeviceResults(results.directory).owed() == ()
    assert results.history() == (kept,)


def test_a_record_is_owed_before_it_is_history(results):
    """The power may fail in between; here the history cannot be written at all."""
    results.directory.mkdir(parents=True)
    (results.directory / "history").write_text("in the way")
    kept = results.keep(record())

    assert DeviceResults(results.directory).owed() == (kept,)


def test_a_settled_records_number_is_not_used_again(results):
    results.settle(results.keep(record()))

    assert results.keep(record()).sequence == 2


def test_history_keeps_two_hundred_and_owes_fifty(results):
    results.keep(record())
    first = results.directory / "history" / "00000001.json"
    for n in range(2, 203):
        first.with_name(f"{n:08d}.json").write_bytes(to_json(record(sequence=n)))
        (results.directory / "owed" / f"{n:08d}.json").write_bytes(to_json(record(sequence=n)))
    newest = results.keep(record())

    assert [r.sequence for r in results.history()] == list(range(4, 204))
    assert [r.sequence for r in results.owed()] == list(range(154, 204))
    assert newest.sequence == 203


def test_history_is_bounded_in_bytes(results, monkeypatch):
    monkeypatch.setattr(resultfiles, "HISTORY_LIMIT_BYTES", 3 * len(to_json(record())) + 10)
    for _ in range(5):
        results.keep(record())

    assert [r.sequence for r in results.history()] == [3, 4, 5]


def test_a_damaged_file_does_not_hide_the_others(results):
    results.keep(record())
    (results.directory / "owed" / "00000002.json").write_text("{")
    results.keep(record())

    assert [r.sequence for r in results.owed()] == [1, 3]


def test_what_a_power_cut_left_half_written_is_cleared_away(results):
    results.keep(record())
    leftover = results.directory / "history" / ".00000002.json.abc123"
    leftover.write_text("{")
    results.keep(record())

    assert not leftover.exists()


def test_a_full_device_still_owes_its_record_to_the_stick_that_is_here(tmp_path):
    with ext4_stick(tmp_path) as storage:
        fill(storage / "logs")
        results = DeviceResults(storage / "results")
        kept = results.keep(record())

        assert results.owed() == (kept,)
        results.settle(kept)
        assert results.owed() == ()


# --- reading ---------------------------------------------------------------------------


def test_a_stick_a_directory_and_a_file_read_the_same(tmp_path):
    StickLetterbox(tmp_path).put(record())

    for place in (tmp_path, tmp_path / RESULTS_DIRECTORY, on_stick(tmp_path).parent):
        assert read_results(place).records == (record(),), place
    assert read_results(on_stick(tmp_path)).records == (record(),)


def test_the_block_device_of_a_mounted_stick_reads_as_its_mountpoint(tmp_path):
    with ext4_stick(tmp_path) as stick:
        StickLetterbox(stick).put(record())
        found = subprocess.run(
            ["findmnt", "-no", "SOURCE", str(stick)], check=True, capture_output=True, text=True
        )

        assert read_results(Path(found.stdout.strip())).records == (record(),)


def test_the_devices_own_history_can_be_reported(results):
    kept = results.keep(record())

    assert read_results(results.directory / "history").records == (kept,)


def test_a_stick_without_results_is_empty(tmp_path):
    assert read_results(tmp_path).records == ()


def test_a_place_that_is_not_there_says_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_results(tmp_path / "nothing")


def test_hostile_files_are_named_and_the_good_one_is_read(tmp_path):
    StickLetterbox(tmp_path).put(record())
    directory = on_stick(tmp_path).parent
    os.mkfifo(directory / "fifo.json")
    (directory / "link.json").symlink_to(on_stick(tmp_path))
    (directory / "passwd.json").symlink_to("/etc/passwd")
    (directory / "dir.json").mkdir()
    (directory / "junk.json").write_text("{")
    (directory / "deep.json").write_text("[" * 100_000)
    (directory / "forged.json").write_bytes(to_json(record()).replace(b"pump-07", b"pump-08"))
    with (directory / "huge.json").open("wb") as huge:
        huge.truncate(1 << 40)
    (directory.parent / "linked").symlink_to(directory)
    (directory / "._x.json").write_text("AppleDouble")

    reading = read_results(tmp_path)

    assert reading.records == (record(),)
    refused = {Path(skipped.path).name for skipped in reading.skipped}
    assert refused == {
        "deep.json",
        "dir.json",
        "fifo.json",
        "forged.json",
        "huge.json",
        "junk.json",
        "link.json",
        "passwd.json",
    }


def test_a_results_directory_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "real").mkdir()
    StickLetterbox(tmp_path / "real").put(record())
    (tmp_path / "stick").mkdir()
    (tmp_path / "stick" / RESULTS_DIRECTORY).symlink_to(tmp_path / "real" / RESULTS_DIRECTORY)

    reading = read_results(tmp_path / "stick")

    assert reading.records == ()
    assert len(reading.skipped) == 1


def test_reading_is_bounded_in_names_and_bytes(tmp_path, monkeypatch):
    for n in range(1, 6):
        StickLetterbox(tmp_path).put(record(sequence=n))
    monkeypatch.setattr(resultfiles, "READ_ENTRIES_LIMIT", 5)
    assert len(read_results(tmp_path).records) <= 2

    monkeypatch.setattr(resultfiles, "READ_ENTRIES_LIMIT", 100)
    monkeypatch.setattr(resultfiles, "READ_LIMIT_BYTES", len(to_json(record())) + 1)
    reading = read_results(tmp_path)
    assert len(reading.records) == 2
    assert len(reading.skipped) == 3


def test_events_are_read_and_not_kept(tmp_path):
    loud = record(events=[{"event": "a.b"}])
    StickLetterbox(tmp_path).put(loud)

    assert read_results(tmp_path).records == (replace(loud, events=()),)


def test_a_big_record_is_read_back(tmp_path):
    big = record(
        InstallExit.PULL_FAILED,
        events=[{"event": "x" * 300, **{f"k{n}": "y" * 300 for n in range(20)}}] * 500,
    )
    assert StickLetterbox(tmp_path).put(big).arrived
    size = on_stick(tmp_path).stat().st_size

    assert RECORD_LIMIT_BYTES // 4 < size <= RECORD_LIMIT_BYTES
    assert json.loads(on_stick(tmp_path).read_bytes())["truncated"]
    assert len(read_results(tmp_path).records) == 1


def test_a_stick_that_dies_while_it_is_written_raises_nothing(tmp_path):
    """The medium takes no more blocks: writes that seemed to work fail when synced."""
    if not IS_ROOT:
        pytest.skip("mounting takes root")
    cellar = tmp_path / "cellar"
    cellar.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", cellar)
    try:
        with ext4_stick(cellar, size_kib=32 * 1024) as stick:
            fill(cellar / "rest")
            delivery = StickLetterbox(stick).put(record())
    finally:
        run("umount", "-l", cellar)

    assert delivery.posted is Posted.GONE
