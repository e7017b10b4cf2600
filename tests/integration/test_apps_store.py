"""Fetching Apps from a bundle into the device's store: real files, no engine."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.adapters.apps import ComposeApps
from agent.core.errors import AgentError, ComposeInvalidError, NoSpaceError, PullError
from agent.core.target import AppRef
from tests.app_store import (
    DOCKER_MANIFEST,
    FACTORY,
    HOST,
    Image,
    encode,
    make_app,
    make_image,
    put_app,
    reference,
    regular,
    sha256,
    tar_of,
    tar_of_members,
    tgz,
)

COMPOSE = 'services: {main: {image: "{web}"}}\n'
LAYER = tar_of({"etc/base": os.urandom(3 * 1024 * 1024)})
PLATFORM = "amd64"


def quiet(_step: str, _done: int, _total: int) -> None:
    """Progress that nobody looks at."""


@dataclass
class Place:
    """A bundle's App store and a device's, in one directory."""

    root: Path

    @property
    def bundle(self) -> Path:
        return self.root / "bundle"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def apps(self) -> ComposeApps:
        return ComposeApps(
            self.store,
            self.root / "projects",
            engine_root=self.root,
            watermark=95,
            platform=PLATFORM,
        )

    def make(self, image: Image, **more: object) -> AppRef:
        return make_app(self.bundle, "web", COMPOSE, {"web": image}, **more)  # type: ignore[arg-type]

    def fetch(self, app: AppRef) -> None:
        self.apps.fetch(self.bundle, app, quiet)

    def blob(self, digest: str) -> Path:
        return self.store / "blobs/sha256" / digest

    def bundle_blob(self, digest: str) -> Path:
        return self.bundle / "blobs/sha256" / digest


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize("kind", ["oci", "docker", "index"])
@pytest.mark.parametrize("layout", ["both", "old"])
def test_an_app_is_copied_whole(place: Place, kind: str, layout: str) -> None:
    app = place.make(make_image([LAYER], kind=kind), layout=layout)  # type: ignore[arg-type]
    assert (app,) == place.apps.missing([app])

    place.fetch(app)

    assert () == place.apps.missing([app])


def test_the_store_has_the_layout_that_other_programs_know(place: Place) -> None:
    image = make_image([LAYER], kind="docker")
    app = place.make(image)

    place.fetch(app)

    home = place.store / "apps/web" / app.digest
    inner = home / "images" / HOST / FACTORY / "web" / image.root
    assert app.uri == (home / "uri").read_text()
    assert app.digest == sha256((home / "manifest.json").read_bytes())
    assert all(path.stem == sha256(path.read_bytes()) for path in home.glob("*.tgz"))
    assert reference("web", image) in (home / "docker-compose.yml").read_text()
    entry = json.loads((inner / "index.json").read_bytes())["manifests"][0]
    assert (f"sha256:{image.manifest}", DOCKER_MANIFEST) == (entry["digest"], entry["mediaType"])
    assert all(p.name == sha256(p.read_bytes()) for p in place.blob("").iterdir())


def test_progress_counts_the_bytes_of_layers(place: Place) -> None:
    image = make_image([LAYER, tar_of({"b": b"2"})])
    app = place.make(image)
    told: list[tuple[str, int, int]] = []

    place.apps.fetch(place.bundle, app, lambda *step: told.append(step))

    total = sum(len(image.blobs[layer]) for layer in image.layers)
    assert ("App web", total, total) == told[-1]
    assert sorted(done for _, done, _ in told) == [done for _, done, _ in told]


def read_bytes() -> int:
    """Bytes this process has read so far, by read(2) and its kin."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])


def test_each_blob_is_read_once(place: Place) -> None:
    image = make_image([LAYER])
    app = place.make(image)
    size = sum(len(data) for data in image.blobs.values())
    before = read_bytes()

    place.fetch(app)

    assert size <= read_bytes() - before < size + 100_000


def test_layers_on_the_device_are_not_read_again(place: Place) -> None:
    place.fetch(place.make(make_image([LAYER])))
    update = place.make(make_image([LAYER, tar_of({"new": b"2"})]))
    before = read_bytes()

    place.fetch(update)

    assert read_bytes() - before < 100_000
    assert () == place.apps.missing([update])


# --- hostile and damaged bundles -------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def link(path: Path) -> None:
    copy = path.with_name("copy")
    path.rename(copy)
    path.symlink_to(copy)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def remove(path: Path) -> None:
    path.unlink()


DAMAGES = [flip, grow, shorten, link, fifo, directory, remove]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("part", ["root", "manifest", "config", "layer"])
def test_a_damaged_blob_of_an_image_is_named(place: Place, damage: object, part: str) -> None:
    image = make_image([LAYER], kind="index")
    app = place.make(image)
    digest = image.layers[0] if part == "layer" else getattr(image, part)
    damage(place.bundle_blob(digest))  # type: ignore[operator]

    with pytest.raises(PullError, match=digest):
        place.fetch(app)

    assert not place.blob(digest).exists()
    assert (app,) == place.apps.missing([app])


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("part", ["manifest.json", "*.tgz"])
def test_a_damaged_part_of_an_app_is_named(place: Place, damage: object, part: str) -> None:
    app = place.make(make_image([LAYER]), layout="old")
    path = next((place.bundle / "apps/web" / app.digest).glob(part))
    digest = sha256(path.read_bytes())
    damage(path)  # type: ignore[operator]

    with pytest.raises(PullError, match=digest):
        place.fetch(app)


def test_after_a_damaged_copy_a_good_one_succeeds(place: Place) -> None:
    image = make_image([LAYER, tar_of({"b": b"2"})])
    app = place.make(image)
    path = place.bundle_blob(image.layers[0])
    good = path.read_bytes()
    flip(path)
    with pytest.raises(PullError):
        place.fetch(app)
    path.write_bytes(good)

    place.fetch(app)

    assert () == place.apps.missing([app])
    assert [] == list((place.store / "ingest").iterdir())


def test_a_stick_pulled_out_between_two_layers_fails_the_pull(place: Place) -> None:
    image = make_image([LAYER, tar_of({"b": os.urandom(2_000_000)})])
    app = place.make(image)

    def pull_out(_step: str, done: int, _total: int) -> None:
        if done > len(image.blobs[image.layers[0]]):
            return
        shutil.rmtree(place.bundle, ignore_errors=True)

    with pytest.raises(PullError):
        place.apps.fetch(place.bundle, app, pull_out)


def test_a_layer_that_shrinks_while_it_is_copied_fails_the_pull(place: Place) -> None:
    image = make_image([LAYER])
    app = place.make(image)
    path = place.bundle_blob(image.layers[0])

    with pytest.raises(PullError, match=image.layers[0]):
        place.apps.fetch(place.bundle, app, lambda *_: os.truncate(path, 1))

    assert [] == list((place.store / "ingest").iterdir())


def test_an_interrupted_copy_goes_on_where_it_was(place: Place) -> None:
    image = make_image([LAYER, tar_of({"b": b"2"})])
    app = place.make(image)
    first = len(image.blobs[image.layers[0]])

    def stop(_step: str, done: int, _total: int) -> None:
        if done > first:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.apps.fetch(place.bundle, app, stop)
    before = read_bytes()

    place.fetch(app)

    assert read_bytes() - before < 100_000
    assert () == place.apps.missing([app])


def test_an_old_layout_without_the_index_says_what_is_missing(place: Place) -> None:
    image = make_image([LAYER], kind="index")
    app = place.make(image, layout="old")
    place.bundle_blob(image.root).unlink()

    with pytest.raises(PullError, match=image.root):
        place.fetch(app)


def test_an_image_for_another_architecture_is_refused(place: Place) -> None:
    app = place.make(make_image([LAYER], architecture="s390x"))

    with pytest.raises(PullError, match="expected amd64, found s390x"):
        place.fetch(app)


def test_an_app_whose_images_are_not_pinned_is_refused(place: Place) -> None:
    app = make_app(place.bundle, "web", "services: {main: {image: 'busybox:latest'}}", {})

    with pytest.raises(ComposeInvalidError, match="busybox:latest"):
        place.fetch(app)


def test_a_hostile_archive_is_refused_before_layers_are_copied(place: Place) -> None:
    image = make_image([LAYER])
    archive = tgz(tar_of_members([regular("docker-compose.yml", b"{}"), regular("../evil")]))
    app = put_app(place.bundle, "web", "", archive, {"web": image})

    with pytest.raises(ComposeInvalidError):
        place.fetch(app)

    assert not place.blob(image.layers[0]).exists()


@pytest.mark.parametrize("what", ["manifest", "index", "config"])
def test_any_json_in_place_of_a_document_is_a_pull_error(place: Place, what: str) -> None:
    """A digest vouches for who made the bytes, not for their sense."""
    odd = encode({"schemaVersion": 2, what: [1, {"digest": None}]})
    image = Image(sha256(odd), sha256(odd), sha256(odd), (), {sha256(odd): odd})
    app = place.make(image)

    with pytest.raises(AgentError) as caught:
        place.fetch(app)

    assert isinstance(caught.value, PullError)


# --- the device ------------------------------------------------------------------------


def test_too_little_space_is_told_with_figures(place: Place) -> None:
    usage = {
        PLATFORM: {"layers": {}},
    }
    image = make_image([LAYER])
    usage[PLATFORM]["layers"][f"sha256:{image.layers[0]}"] = {"size": 1, "usage": 2**60}
    meta = ("application/json", encode(usage), {"layers-meta": "v1"})
    app = place.make(image, extra_layers=[meta])

    with pytest.raises(NoSpaceError, match=r"needs \d{19} bytes .* available \d+: free \d+"):
        place.fetch(app)

    assert not place.blob(image.layers[0]).exists()


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


@pytest.mark.needs_root
def test_a_volume_that_fills_up_meanwhile_is_no_space(place: Place, small_volume: Path) -> None:
    image = make_image([LAYER])
    app = place.make(image)
    apps = ComposeApps(
        small_volume, place.root, engine_root=place.root, watermark=95, platform=PLATFORM
    )

    def fill(_step: str, _done: int, _total: int) -> None:
        with (small_volume / "other").open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, room(small_volume) + file.tell())

    with pytest.raises(NoSpaceError, match="full"):
        apps.fetch(place.bundle, app, fill)

    (small_volume / "other").unlink()
    apps.fetch(place.bundle, app, quiet)
    assert () == apps.missing([app])


def room(path: Path) -> int:
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


@pytest.mark.parametrize("part", ["root", "config", "layer", "uri", "archive"])
def test_a_damaged_store_is_noticed_and_mended(place: Place, part: str) -> None:
    """Metadata by its hash, layers by their size."""
    image = make_image([LAYER])
    app = place.make(image)
    place.fetch(app)
    home = place.store / "apps/web" / app.digest
    damaged = {
        "root": place.blob(image.root),
        "config": place.blob(image.config),
        "layer": place.blob(image.layers[0]),
        "uri": home / "uri",
        "archive": place.blob(next(home.glob("*.tgz")).stem),
    }[part]
    data = damaged.read_bytes()
    damaged.write_bytes(data[:-1] if part == "layer" else data[:-1] + bytes([data[-1] ^ 1]))
    assert (app,) == place.apps.missing([app])

    place.fetch(app)

    assert () == place.apps.missing([app])


def test_pruning_keeps_what_is_needed(place: Place) -> None:
    shared = tar_of({"shared": os.urandom(1000)})
    old = place.make(make_image([shared, tar_of({"v": b"1"})]))
    new_image = make_image([shared, tar_of({"v": b"2"})])
    new = place.make(new_image)
    other = make_app(place.bundle, "other", COMPOSE, {"web": make_image([LAYER])})
    for app in (old, new, other):
        place.fetch(app)

    ComposeApps(place.store, place.root / "projects", prune_images=False, platform=PLATFORM).prune(
        [new]
    )

    assert (old, other) == place.apps.missing([old, new, other])
    assert {app.parent.name for app in place.store.glob("apps/*/*/uri")} == {new.digest}
    kept = {path.name for path in place.blob("").iterdir()}
    assert set(new_image.blobs) <= kept
    assert len(kept) == len(new_image.blobs) + 3  # manifest, archive, its empty configuration


def test_nothing_is_pruned_on_the_strength_of_an_app_that_cannot_be_read(place: Place) -> None:
    image = make_image([tar_of({"a": b"1"})])
    damaged = place.make(image)
    other = make_app(place.bundle, "other", COMPOSE, {"web": make_image([LAYER])})
    for app in (damaged, other):
        place.fetch(app)
    place.blob(image.config).unlink()

    place.apps.prune([damaged])

    assert () == place.apps.missing([other])
