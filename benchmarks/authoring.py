"""Making and reading bundles: against the bare programs that move and hash the same bytes."""

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from agent.services import author
from agent.services.author import BundleSpec
from benchmarks.figures import MIB, ROUNDS, Figure, ratio, scratch, timed
from tests.app_store import make_image, tar_of
from tests.authoring_desk import Workshop, workshop
from tests.image_files import oci_layout
from tests.ostree_device import archive_repo, make_commit, ostree

WEB = "docker.io/library/web:1"
HALF = 250  # MB of rootfs, and as many of Apps
SHARED = 9  # of ten files and layers


def make_bundles() -> list[Figure]:
    """A Target of 500 MB, and a second one that shares nine tenths."""
    with scratch() as base:
        shop = workshop(base)
        first, second = _targets(shop)
        with _another_file_system(base) as stick:
            return [_create(shop, first, stick), _merge(shop, first, second, stick)]


def read_bundles() -> list[Figure]:
    """`verify --deep` of the same bundle, against sha256sum of its files."""
    with scratch() as base:
        shop = workshop(base)
        first, _ = _targets(shop)
        bundle = _made(shop, first, base / "bundle")
        return [_deep(shop, bundle)]


def _targets(shop: Workshop) -> tuple[BundleSpec, BundleSpec]:
    """2,500 files, half compressible, and ten layers; a tenth of each is another's own."""
    files = {f"usr/lib/f{n:04}": _content(100_000) for n in range(2500)}
    layers = [tar_of({f"l{n}": os.urandom(HALF * MIB // 10)}) for n in range(10)]
    old = _target(shop, 1, files, layers)
    changed = {name: _content(100_000) for n, name in enumerate(files) if n % 10 == SHARED}
    return old, _target(
        shop, 2, {**files, **changed}, [*layers[:SHARED], tar_of({"new": os.urandom(25 * MIB)})]
    )


def _content(size: int) -> bytes:
    return os.urandom(size // 2) + (b"usr/share/doc/" * size)[: size // 2]


def _target(
    shop: Workshop, version: int, files: dict[str, bytes], layers: list[bytes]
) -> BundleSpec:
    commit = make_commit(shop.repo, files)
    layout = oci_layout(shop.path / f"layout-{version}", {WEB: make_image(layers)})
    app = shop.path / f"apps-{version}/web"
    app.mkdir(parents=True)
    (app / "docker-compose.yml").write_text("services: {web: {image: 'web:1'}}", encoding="utf-8")
    return shop.spec(version, ref=commit, apps=(app,), images=(str(layout),))


@contextmanager
def _another_file_system(base: Path) -> Iterator[Path]:
    """Give an ext4 in a file: what is made there cannot be a hard link to its source."""
    image, place = base / "stick.img", base / "stick"
    with image.open("wb") as file:
        file.truncate(6 * 1024 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def _made(shop: Workshop, spec: BundleSpec, bundle: Path, **changes: object) -> Path:
    asked = replace(spec, destination=bundle, **changes)  # type: ignore[arg-type]
    author.create_bundle(shop.desk(), asked)
    return bundle


def _create(shop: Workshop, spec: BundleSpec, stick: Path) -> Figure:
    bundle, bare = stick / "bundle", stick / "bare"
    blobs = _made(shop, spec, stick / "reference") / "apps"

    def ours() -> float:
        shutil.rmtree(bundle, ignore_errors=True)
        return timed(lambda: _made(shop, spec, bundle))

    def theirs() -> float:
        shutil.rmtree(bare, ignore_errors=True)
        source = shop.path / "blobs"
        if not source.exists():
            shutil.copytree(blobs, source)

        def work() -> None:
            archive_repo(bare / "ostree_repo")
            ostree("pull-local", "--repo", bare / "ostree_repo", shop.repo, spec.ref)
            subprocess.run(["cp", "-r", source, bare / "apps"], check=True)
            subprocess.run(["sync", "-f", bare], check=True)

        return timed(work)

    return ratio("bundle create of 500 MB, against ostree pull-local and cp", ours, theirs, 1.2)


def _merge(shop: Workshop, first: BundleSpec, second: BundleSpec, stick: Path) -> Figure:
    def once() -> tuple[float, float]:
        bundle = stick / f"merged-{time.time_ns()}"
        alone = timed(lambda: _made(shop, first, bundle))
        added = timed(lambda: _made(shop, second, bundle, allow_multiple_targets=True))
        shutil.rmtree(bundle)
        return alone, added

    taken = [once() for _ in range(ROUNDS)]
    alone, added = (statistics.median(column) for column in zip(*taken, strict=True))
    share = added / alone
    return Figure(
        "add a second Target that shares 90 %, against the first", f"{added:.2f} s",
        f"{alone:.2f} s", f"{share:.2f}", "< 0.2", share < 0.2,
    )  # fmt: skip


def _deep(shop: Workshop, bundle: Path) -> Figure:
    files = [path for path in bundle.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    listing = "\0".join(map(str, files)).encode()

    def theirs() -> float:
        argv = ["xargs", "-0", "sha256sum"]
        return timed(lambda: subprocess.run(argv, input=listing, check=True, stdout=-3))

    def ours() -> float:
        return timed(lambda: _accepted(shop, bundle))

    taken = [(ours(), theirs()) for _ in range(ROUNDS)]
    deep, bare = (size / MIB / statistics.median(column) for column in zip(*taken, strict=True))
    cores = os.cpu_count() or 1
    per_core = deep / cores / bare
    return Figure(
        f"verify --deep, for each of {cores} cores, against sha256sum", f"{deep:.0f} MiB/s",
        f"{bare:.0f} MiB/s on one", f"{per_core:.2f}", ">= 0.8", per_core >= 0.8,
    )  # fmt: skip


def _accepted(shop: Workshop, bundle: Path) -> None:
    guess = author.DeviceGuess(shop.keys / "roots", author.BundleType.CI)
    assert author.check_bundle(shop.desk(), bundle, guess, deep=True).accepted


EVERY: dict[str, Callable[[], list[Figure]]] = {"create": make_bundles, "deep": read_bundles}
