"""Bundles that other programs made, from the first command to the last."""

import json
from pathlib import Path

import pytest

from agent.adapters.sotadb import SotaDatabase
from tests.field import Answer, Field, FieldDevice, field_device, no_engine
from tests.ostree_device import Device, archive_repo, ostree
from tests.unit.core.test_tuf import StandardRepository

pytestmark = pytest.mark.needs_ostree

HARDWARE_ID = "raspberrypi4-64"


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Field:
    return Field(tmp_path_factory.mktemp("field"))


@pytest.fixture(autouse=True)
def _engineless(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in no_engine().items():
        monkeypatch.setenv(name, value)


def through(device: FieldDevice, bundle: Path) -> tuple[int, int, Answer]:
    """Check, install, reboot, run; return what each answered."""
    checked, installed = device.check(bundle).code, device.install(bundle).code
    device.reboot()
    return checked, installed, device.run()


# --- the sample bundles ----------------------------------------------------------------------


@pytest.fixture
def sampled(samples: Path, tmp_path: Path) -> FieldDevice:
    """A device that runs the samples' first commit and has no root metadata."""
    commits = json.loads((samples / "commits.json").read_text())
    device = Device(tmp_path / "sysroot", "lmp", samples / "initial", [commits["1"]])
    device.sysroot.mkdir()
    ostree("admin", "init-fs", device.sysroot)
    ostree("admin", "os-init", "--sysroot", device.sysroot, "lmp")
    ostree("config", "--repo", device.repo, "set", "core.mode", "bare-user-only")
    ostree("pull-local", "--repo", device.repo, device.origin, commits["1"])
    ostree("admin", "deploy", "--sysroot", device.sysroot, "--os", "lmp", commits["1"])
    made = field_device(tmp_path, device, tmp_path / "no-roots", apps=False)
    made.configure("provision", primary_ecu_hardware_id=HARDWARE_ID)
    made.configure("pacman", tags="default-tag")
    return made


@pytest.mark.parametrize("name", ["v01-rootfs-only", "v07-prod-type", "v09-rsa-keys"])
def test_a_sample_goes_all_the_way(samples: Path, sampled: FieldDevice, name: str) -> None:
    checked, installed, ran = through(sampled, samples / "bundles" / name)

    assert (checked, installed, ran.code) == (16, 100, 0)
    assert sampled.current()["target"] == "raspberrypi4-64-lmp-2"
    assert sampled.install(samples / "bundles" / name).code == 0


def test_a_sample_whose_root_key_was_rotated(samples: Path, sampled: FieldDevice) -> None:
    checked, installed, ran = through(sampled, samples / "bundles/v10-root-rotated")

    assert (checked, installed, ran.code) == (16, 100, 0)
    with SotaDatabase(sampled.database).reading() as db:
        roots = db.execute("SELECT version FROM meta WHERE meta_type=0 ORDER BY version")
        assert [(1,), (2,)] == roots.fetchall()


def test_a_sample_with_apps_is_copied_whole(samples: Path, sampled: FieldDevice) -> None:
    """Its images are not real ones, so they are not started."""
    sampled.configure("pacman", type="ostree+compose_apps")
    bundle = samples / "bundles/v02-rootfs-apps"

    assert (sampled.check(bundle).code, sampled.install(bundle).code) == (16, 100)
    uris = (sampled.storage / "reset-apps/apps").glob("*/*/uri")
    assert {"app-01", "app-02"} == {uri.parents[1].name for uri in uris}


def test_a_sample_that_expired(samples: Path, sampled: FieldDevice) -> None:
    checked, installed, ran = through(sampled, samples / "bundles/e01-all-expired")

    assert (checked, installed, ran.code) == (12, 12, 40)


def test_a_production_sample_after_a_ci_one(samples: Path, sampled: FieldDevice) -> None:
    """The first bundle fixes the type of a device that nobody registered."""
    assert sampled.check(samples / "bundles/v01-rootfs-only").code == 16

    assert sampled.install(samples / "bundles/v07-prod-type").code == 15


# --- standard TUF 1.0 ------------------------------------------------------------------------


@pytest.mark.parametrize("rsa", [False, True], ids=["ed25519", "rsa"])
@pytest.mark.parametrize("consistent", [False, True], ids=["flat", "versioned"])
def test_metadata_of_python_tuf_goes_all_the_way(
    field: Field, tmp_path: Path, *, rsa: bool, consistent: bool
) -> None:
    commit = field.origin.new_commit()
    repository = StandardRepository(
        consistent=consistent,
        rsa=rsa,
        edit={"targets": lambda it: it.targets["lmp-7"].hashes.update(sha256=commit)},
    )
    bundle = tmp_path / "bundle"
    (bundle / "tuf").mkdir(parents=True)
    for name, document in repository.build().metadata.items():
        (bundle / "tuf" / name).write_bytes(document)
    ostree(
        "pull-local", "--repo", archive_repo(bundle / "ostree_repo"), field.origin.origin, commit
    )
    device = field.device(tmp_path / "device")
    device.configure("provision", primary_ecu_hardware_id=HARDWARE_ID)
    device.configure("storage", uptane_metadata_path=tmp_path / "no-roots")

    checked, installed, ran = through(device, bundle)

    assert (checked, installed, ran.code) == (16, 100, 0)
    assert device.current()["commit"] == commit
    assert device.install(bundle).code == 0
