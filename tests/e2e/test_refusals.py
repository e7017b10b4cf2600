"""Sticks that a device must not take: the documented answer, and nothing has changed."""

import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.e2e.conftest import Make
from tests.e2e.device import Device
from tests.e2e.factory import REPOSITORY, Factory
from tests.e2e.image import GOOD
from tests.field import SLEEPS
from tests.ostree_device import content_objects


@pytest.fixture(scope="module")
def updated(make_device: Make, factory: Factory) -> Iterator[Device]:
    """A device that runs board-lmp-5, and that refuses every stick of this module."""
    device = make_device()
    device.switch_on()
    stick = device.take(factory.stick(device.filesystem, factory.bundle(5, app=SLEEPS)))
    device.visit(stick, ("install", 100), ("run", 0))
    yield device
    device.machine.power_cut()


def tampered(factory: Factory) -> Path:
    """Return a bundle in which somebody has replaced the content of a file by another's.

    The version file is what the update brings; whatever else is on the device already.
    """
    bundle = factory.bundle(6, "device/firmware")
    copy = bundle.with_name("tampered")
    subprocess.run(["cp", "-a", bundle, copy], check=True)
    for name in ("device-version", "firmware/version.txt"):
        swap(copy / REPOSITORY, name, factory)
    return copy


def swap(repo: Path, name: str, factory: Factory) -> None:
    """Let the object of a file hold what another object holds; it stays a valid one."""
    source = factory.image.factory / "repo"
    argv = ["ostree", "ls", "-C", "--repo", source, "device/firmware", f"/usr/lib/{name}"]
    checksum = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()[-2]
    victim = repo / "objects" / checksum[:2] / f"{checksum[2:]}.filez"
    other = next(path for path in content_objects(repo) if path != victim)
    victim.unlink()
    victim.write_bytes(other.read_bytes())


LONG_AGO = datetime.now(UTC) - timedelta(days=60)
CASES: dict[str, tuple[int, Callable[[Factory], Path]]] = {
    "nothing to do": (0, lambda factory: factory.bundle(5, app=SLEEPS)),
    "another tag": (15, lambda factory: factory.bundle(6, tag="devel")),
    "another hardware": (6, lambda factory: factory.bundle(6, hardware_id="other-board")),
    "expired": (12, lambda factory: factory.bundle(6, made=LONG_AGO)),
    "an older version": (102, lambda factory: factory.bundle(4, GOOD)),
    "a tampered object": (50, tampered),
}


@pytest.mark.parametrize("case", list(CASES))
def test_refused(updated: Device, factory: Factory, case: str) -> None:
    code, bundle = CASES[case]
    stick = updated.take(factory.stick(updated.filesystem, bundle(factory)))
    before = updated.state()

    records = updated.visit(stick, ("install", code))

    assert [code] == [record.answer.code for record in records], records
    after = updated.state()
    assert before == after


def test_the_database_is_one_that_aktualizr_lite_goes_on_with(updated: Device) -> None:
    """What the other agent looks up: the schema it migrates from, and one current version."""
    dumped = updated.machine.run("python3", "-c", DUMP).output
    with sqlite3.connect(":memory:") as database:
        database.executescript(dumped)
        (version,) = database.execute("SELECT version FROM version").fetchone()
        names = database.execute(
            "SELECT name FROM installed_versions WHERE is_current = 1"
        ).fetchall()

    assert (25, [("board-lmp-5",)]) == (version, names)


DUMP = """\
import sqlite3
for line in sqlite3.connect("/var/sota/sql.db").iterdump():
    print(line)
"""
