"""Metadata that other programs made, if samples of it lie beside the project."""

import json
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.core.bundle import RawBundle, TrustedDocuments, VerifiedBundle
from agent.core.bundletype import BundleType
from agent.core.errors import (
    BundleTypeError,
    MetadataExpiredError,
    MetadataInvalidError,
    MetadataUpdateError,
)
from agent.core.verify import bundle_signers, limit_of, verify_bundle, verify_roots

SAMPLES = Path(__file__).parents[3] / "shared" / "data"
CHAINS = SAMPLES / "tuf-samples"
BUNDLES = SAMPLES / "sample-bundles.tar.xz"
# They expired long ago and are judged with a clock of their time.
THEN = {"rsa": datetime(2022, 1, 1, tzinfo=UTC), "ed25519": datetime(2023, 7, 1, tzinfo=UTC)}
NOW = datetime(2026, 1, 1, tzinfo=UTC)

needs_chains = pytest.mark.skipif(not CHAINS.is_dir(), reason=f"no samples in {CHAINS}")
needs_bundles = pytest.mark.skipif(not BUNDLES.is_file(), reason=f"no samples in {BUNDLES}")


def read(directory: Path) -> RawBundle:
    files = (file for file in directory.iterdir() if limit_of(file.name))
    return RawBundle({file.name: file.read_bytes() for file in files}, str(directory))


def judge_chain(name: str, kind: str = "rsa") -> VerifiedBundle:
    return verify_bundle(
        read(CHAINS / name),
        TrustedDocuments(),
        device_type=None,
        device_tags=(),
        now=THEN[kind],
        require_bundle_metadata=False,
    )


@needs_chains
@pytest.mark.parametrize(("name", "roots"), [("rsa", 2), ("ed25519", 13)])
def test_genuine_metadata_is_verified(name: str, roots: int) -> None:
    result = judge_chain(name, name)

    assert [version for version, _ in result.documents.roots] == list(range(1, roots + 1))


@needs_chains
def test_genuine_roots_are_a_chain_from_anywhere() -> None:
    roots = {n: (CHAINS / "ed25519" / f"{n}.root.json").read_bytes() for n in range(1, 14)}

    assert verify_roots(roots) == tuple(roots.items())
    assert len(verify_roots({n: roots[n] for n in range(7, 14)})) == 7


@needs_chains
def test_a_device_with_an_old_root_walks_to_the_newest() -> None:
    raw = read(CHAINS / "ed25519")
    device = TrustedDocuments(((3, raw.metadata["3.root.json"]),))
    result = verify_bundle(
        raw,
        device,
        device_type=None,
        device_tags=(),
        now=THEN["ed25519"],
        require_bundle_metadata=False,
    )

    assert [version for version, _ in result.documents.roots] == list(range(3, 14))


@needs_chains
@pytest.mark.parametrize(
    ("name", "error", "file"),
    [
        ("error_sig_root_2", MetadataUpdateError, "2.root.json"),
        ("error_sig_root_2_self", MetadataUpdateError, "2.root.json"),
        ("error_version_root_2", MetadataUpdateError, "2.root.json"),
        ("error_sig_timestamp", MetadataUpdateError, "timestamp.json"),
        ("error_sig_snapshot", MetadataUpdateError, "timestamp.json"),
        ("error_sig_targets", MetadataUpdateError, "timestamp.json"),
        ("error_hash_snapshot", MetadataInvalidError, "snapshot.json"),
        ("error_hash_targets", MetadataInvalidError, "targets.json"),
    ],
)
def test_spoilt_metadata_is_refused(
    name: str, error: type[MetadataUpdateError | MetadataInvalidError], file: str
) -> None:
    with pytest.raises(error, match=f"'{file}'"):
        judge_chain(name)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("samples")
    with tarfile.open(BUNDLES) as archive:
        metadata = [member for member in archive if "/tuf/" in member.name]
        archive.extractall(directory, metadata, filter="data")
    return directory / "sample-bundles" / "bundles"


def judge(bundles: Path, name: str, device_type: BundleType | None = None) -> VerifiedBundle:
    return verify_bundle(
        read(bundles / name / "tuf"),
        TrustedDocuments(),
        device_type=device_type,
        device_tags=("default-tag",),
        now=NOW,
    )


@needs_bundles
@pytest.mark.parametrize(
    "name", ["v01-rootfs-only", "v02-rootfs-apps", "v07-prod-type", "v09-rsa-keys"]
)
def test_another_programs_bundle_is_verified(bundles: Path, name: str) -> None:
    result = judge(bundles, name)

    assert [target.name for target in result.targets] == ["raspberrypi4-64-lmp-2"]
    assert result.targets[0].hardware_ids == ("raspberrypi4-64",)


@needs_bundles
def test_another_programs_apps_are_read(bundles: Path) -> None:
    apps = judge(bundles, "v02-rootfs-apps").targets[0].apps

    assert [app.name for app in apps] == ["app-01", "app-02"]


@needs_bundles
def test_another_programs_rotation_is_followed(bundles: Path) -> None:
    result = judge(bundles, "v10-root-rotated")

    assert [version for version, _ in result.documents.roots] == [1, 2]


@needs_bundles
def test_a_production_bundle_is_not_for_a_ci_device(bundles: Path) -> None:
    assert judge(bundles, "v07-prod-type", BundleType.PROD).bundle_type is BundleType.PROD
    with pytest.raises(BundleTypeError):
        judge(bundles, "v07-prod-type", BundleType.CI)


@needs_bundles
def test_an_expired_bundle_is_refused(bundles: Path) -> None:
    with pytest.raises(MetadataExpiredError, match="2010-01-01"):
        judge(bundles, "e01-all-expired")


@needs_bundles
def test_the_signers_of_another_programs_bundle_are_told(bundles: Path) -> None:
    tuf = bundles / "v01-rootfs-only" / "tuf"
    data = (tuf / "bundle-targets.json").read_bytes()
    found = bundle_signers(data, (tuf / "1.root.json").read_bytes())

    assert found.missing == 0
    assert found.refused == ()
    assert list(found.valid) == [s["keyid"] for s in json.loads(data)["signatures"]]
