"""``bundle diff`` of real bundles: it says what devices then do copy."""

import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.adapters import packfile
from agent.adapters.apps import ComposeApps
from agent.adapters.authoring import commits
from agent.core.authoring import AuthoringError
from agent.core.difference import Change, Update
from agent.core.errors import PullError
from agent.faces.cli import usb_update
from agent.faces.difference import amount
from agent.services import pack
from agent.services.difference import BundleDifference, compare_bundles
from tests.app_store import Image, busybox_layer, make_image, tar_of
from tests.authoring_desk import Workshop, workshop
from tests.docker_engine import Engine
from tests.image_files import oci_layout
from tests.ostree_device import archive_repo, make_commit, ostree

BASE = tar_of({"etc/base": b"base" * 1000})
COMPOSE = "services: {web: {image: 'web:1'}}\n"
# Not to be packed smaller: its size must count.
PROGRAM = bytes(n * n % 251 for n in range(4000))


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return workshop(tmp_path)


def app(shop: Workshop, name: str, text: str = COMPOSE) -> Path:
    directory = shop.path / name
    directory.mkdir(exist_ok=True)
    (directory / "docker-compose.yml").write_text(text, encoding="ascii")
    return directory


def layout(shop: Workshop, image: Image) -> str:
    path = shop.path / "layout"
    shutil.rmtree(path, ignore_errors=True)
    return str(oci_layout(path, {"docker.io/library/web:1": image}))


def web(text: bytes) -> Image:
    return make_image([BASE, tar_of({"web": text})])


def bundle(shop: Workshop, name: str, **asked: object) -> Path:
    path = shop.path / name
    shop.create(destination=path, **asked)  # type: ignore[arg-type]
    return path


def rootfs(shop: Workshop, **files: bytes) -> str:
    return make_commit(shop.repo, {f"usr/bin/{name}": data for name, data in files.items()})


def diff(shop: Workshop, before: Path, after: Path) -> BundleDifference:
    return compare_bundles(shop.desk(), before, after)


def only(found: BundleDifference) -> Update:
    (update,) = found.updates
    return update


class TestPacks:
    """One file instead of a directory, on either side: the same answer."""

    @pytest.mark.parametrize("sides", [(True, False), (False, True), (True, True)])
    def test_the_same_answer(self, shop: Workshop, sides: tuple[bool, bool]) -> None:
        shop.now = datetime.now(UTC).replace(microsecond=0)
        image = layout(shop, web(b"one"))
        asked = {"apps": (app(shop, "shop"),), "images": (image,)}
        old = bundle(shop, "a", version=1, ref=rootfs(shop, one=b"1"), **asked)
        new = bundle(shop, "b", version=2, ref=rootfs(shop, one=b"2"), **asked)
        expected = diff(shop, old, new)
        files = []
        for path in (old, new):
            file = path.with_suffix(".usbu")
            pack.pack_bundle(shop.desk(), shop.packs(), path, file, shop.keys)
            files.append(file)
        asked_of = [
            f if packed else d for f, d, packed in zip(files, (old, new), sides, strict=True)
        ]
        found = diff(shop, *asked_of)

        assert (found.targets, found.updates) == (expected.targets, expected.updates)
        assert found.updates[0].files.changed == ("/usr/bin/one",)

    def test_a_damaged_one_is_a_sentence(self, shop: Workshop) -> None:
        shop.now = datetime.now(UTC).replace(microsecond=0)
        bundle(shop, "bundle", ref=rootfs(shop, one=b"1"))
        shop.pack()
        file = shop.path / "bundle.usbu"
        data = bytearray(file.read_bytes())
        data[packfile.read_header(file).seal.offset + 100] ^= 1
        file.write_bytes(data)

        with pytest.raises(PullError, match="not the one that was signed"):
            diff(shop, shop.bundle, file)


class TestRootfs:
    def test_files_added_removed_changed(self, shop: Workshop) -> None:
        old = bundle(shop, "a", version=1, ref=rootfs(shop, one=b"1", two=b"2", three=b"3"))
        new = bundle(shop, "b", version=2, ref=rootfs(shop, one=b"1", two=b"II", four=PROGRAM))
        files = only(diff(shop, old, new)).files

        assert files.added == ("/usr/bin/four",)
        assert files.removed == ("/usr/bin/three",)
        assert files.changed == ("/usr/bin/two",)

    def test_the_bytes_are_those_that_ostree_then_pulls(self, shop: Workshop) -> None:
        old = bundle(shop, "a", version=1, ref=rootfs(shop, one=b"1", two=b"2"))
        new = bundle(shop, "b", version=2, ref=rootfs(shop, one=b"1", four=PROGRAM))
        update = only(diff(shop, old, new))
        assert update.before
        device = archive_repo(shop.path / "device")
        ostree("pull-local", "--repo", device, old / "ostree_repo", update.before.commit)
        held = objects(device)
        ostree("pull-local", "--repo", device, new / "ostree_repo", update.after.commit)
        pulled = objects(device).keys() - held.keys()

        assert {name.replace("/", "") for name in pulled} == set(update.files.copied)
        assert update.files.size == sum(objects(device)[name] for name in pulled)

    def test_packs_are_compared_as_their_directories_are(self, shop: Workshop) -> None:
        old = bundle(shop, "a", version=1, ref=rootfs(shop, one=b"1", two=b"2"))
        new = bundle(shop, "b", version=2, ref=rootfs(shop, one=b"1", two=b"II"))
        packed = shop.path / "b.usbu"
        pack.pack_bundle(shop.desk(), shop.packs(), new, packed, shop.keys)

        assert only(diff(shop, old, packed)) == only(diff(shop, old, new))

    def test_one_commit_costs_nothing(self, shop: Workshop) -> None:
        commit = rootfs(shop, one=b"1")
        old, new = (bundle(shop, n, version=v, ref=commit) for n, v in (("a", 1), ("b", 2)))

        assert only(diff(shop, old, new)).size == 0

    def test_an_object_that_is_missing_is_named(self, shop: Workshop) -> None:
        old = bundle(shop, "a", version=1)
        new = bundle(shop, "b", version=2, ref=rootfs(shop, four=PROGRAM))
        lost = next((new / "ostree_repo/objects").rglob("*.filez"))
        lost.unlink()

        with pytest.raises(AuthoringError, match=lost.parent.name + lost.stem):
            diff(shop, old, new)

    def test_a_rootfs_with_more_files_than_fit_a_list(
        self, shop: Workshop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A list that is cut off must not be taken for the whole."""
        path = bundle(shop, "a", version=1)
        monkeypatch.setattr(commits, "LISTING_LIMIT_BYTES", 500)

        with pytest.raises(AuthoringError, match="too many files"):
            diff(shop, path, path)

    def test_a_commit_that_is_missing(self, shop: Workshop) -> None:
        old = bundle(shop, "a", version=1)
        shutil.rmtree(old / "ostree_repo")

        with pytest.raises(AuthoringError, match="cannot be listed"):
            diff(shop, old, old)


def objects(repo: Path) -> dict[str, int]:
    found = (path for path in (repo / "objects").rglob("*.*") if path.is_file())
    return {str(p.relative_to(repo / "objects")): p.stat().st_size for p in found}


class TestApps:
    def test_a_layer_changes(self, shop: Workshop) -> None:
        one, two = web(b"1"), web(b"2")
        apps = (app(shop, "shop"),)
        commit = rootfs(shop, one=b"1")
        old = bundle(shop, "a", version=1, apps=apps, images=(layout(shop, one),), ref=commit)
        new = bundle(shop, "b", version=2, apps=apps, images=(layout(shop, two),), ref=commit)
        (change,) = only(diff(shop, old, new)).apps

        assert change.change is Change.CHANGED
        assert dict(change.added) == {two.layers[1]: len(two.blobs[two.layers[1]])}
        assert dict(change.removed) == {one.layers[1]: len(one.blobs[one.layers[1]])}

    def test_the_bytes_are_those_that_a_device_then_copies(
        self, shop: Workshop, docker_engine: Engine
    ) -> None:
        images = [make_image([busybox_layer(), tar_of({"web": text})]) for text in (b"1", b"2")]
        commit = rootfs(shop, one=b"1")
        shared, own = app(shop, "shop"), app(shop, "stock", COMPOSE + "# stock\n")
        old = bundle(shop, "a", version=1, apps=(shared,), images=(layout(shop, images[0]),),
                     ref=commit)  # fmt: skip
        new = bundle(shop, "b", version=2, apps=(shared, own), images=(layout(shop, images[1]),),
                     ref=commit)  # fmt: skip
        update = only(diff(shop, old, new))
        store = shop.path / "device/store"
        device = ComposeApps(store, shop.path / "device/projects", watermark=95)
        assert update.before
        for ref in update.before.apps:
            device.fetch(old / "apps", ref, lambda *_: None)
        held = blobs(store)
        for ref in update.after.apps:
            device.fetch(new / "apps", ref, lambda *_: None)
        copied = {name: size for name, size in blobs(store).items() if name not in held}

        assert dict(update.copied) == copied
        assert update.size == sum(copied.values())

    def test_added_and_removed(self, shop: Workshop) -> None:
        image, commit = layout(shop, web(b"1")), rootfs(shop, one=b"1")
        one, two = app(shop, "one"), app(shop, "two")
        old = bundle(shop, "a", version=1, apps=(one,), images=(image,), ref=commit)
        new = bundle(shop, "b", version=2, apps=(two,), images=(image,), ref=commit)
        update = only(diff(shop, old, new))

        changes = {change.name: change.change for change in update.apps}
        assert changes == {"one": Change.REMOVED, "two": Change.ADDED}
        assert update.size == 0  # the same files under another name: every blob is there

    def test_a_missing_layer_is_named(self, shop: Workshop) -> None:
        image = web(b"1")
        path = bundle(shop, "a", apps=(app(shop, "shop"),), images=(layout(shop, image),))
        (path / "apps/blobs/sha256" / image.layers[1]).unlink()

        with pytest.raises(AuthoringError, match=f"{image.layers[1]} of App 'shop' is missing"):
            diff(shop, path, path)

    @pytest.mark.parametrize("key", ["layers", "config", "annotations"])
    def test_a_manifest_of_nonsense_is_one_sentence(self, shop: Workshop, key: str) -> None:
        path = bundle(shop, "a", apps=(app(shop, "shop"),), images=(layout(shop, web(b"1")),))
        image = next((path / "apps").rglob("index.json"))
        digest = json.loads(image.read_bytes())["manifests"][0]["digest"][7:]
        blob = path / "apps/blobs/sha256" / digest
        blob.write_bytes(json.dumps({**json.loads(blob.read_bytes()), key: 7}).encode())

        with pytest.raises(AuthoringError):
            diff(shop, path, path)


def blobs(store: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (store / "blobs/sha256").iterdir()}


class TestTargets:
    def test_each_device_goes_from_its_own(self, shop: Workshop) -> None:
        both: dict[str, object] = {"destination": shop.path / "a", "allow_multiple_targets": True}
        shop.create(41, **both)
        shop.create(42, **both)
        shop.create(50, target="intel-lmp-50", hardware_id="intel", **both)
        new = bundle(shop, "b", version=43)
        found = diff(shop, shop.path / "a", new)
        update = only(found)

        assert update.before
        assert update.before.name == "rpi-lmp-42"
        assert found.targets.removed == ("rpi-lmp-41", "rpi-lmp-42", "intel-lmp-50")

    def test_a_device_the_older_bundle_does_not_know(self, shop: Workshop) -> None:
        old = bundle(shop, "a", version=41)
        new = bundle(shop, "b", target="intel-lmp-50", version=50, hardware_id="intel")
        update = only(diff(shop, old, new))
        stored = objects(new / "ostree_repo")

        assert update.before is None
        assert update.size == sum(stored.values())

    def test_no_bundle(self, shop: Workshop) -> None:
        old = bundle(shop, "a", version=41)

        with pytest.raises(AuthoringError, match="this is no bundle"):
            diff(shop, old, shop.path)


class TestCommand:
    @pytest.fixture
    def two(self, shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Workshop:
        names = {f"n{n}": b"x" for n in range(12)}
        apps = (app(shop, "shop"),)
        bundle(shop, "a", version=41, ref=rootfs(shop, one=b"1"), apps=apps,
               images=(layout(shop, web(b"1")),))  # fmt: skip
        bundle(shop, "b", version=42, ref=rootfs(shop, two=b"2", **names), apps=apps,
               images=(layout(shop, web(b"2")),))  # fmt: skip
        monkeypatch.chdir(shop.path)
        return shop

    def test_words(self, two: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
        capsys.readouterr()
        status = usb_update(["bundle", "diff", "a", "b"])
        said = capsys.readouterr().out.splitlines()
        size = amount(only(diff(two, two.path / "a", two.path / "b")).size)

        assert status == 0
        assert said[:5] == [
            "Targets:",
            "  + rpi-lmp-42",
            "  - rpi-lmp-41",
            "",
            f"  rpi-lmp-41 -> rpi-lmp-42: {size} to copy",
        ]
        assert said[5].startswith("    rootfs: 13 added, 1 removed, 0 changed; ")
        assert "      + and 3 more (--all)" in said
        assert any(line.startswith("    App shop: changed; ") for line in said)
        assert sum(line.startswith("      + layer sha256:") for line in said) == 1

    @pytest.mark.usefixtures("two")
    def test_every_path(self, capsys: pytest.CaptureFixture[str]) -> None:
        capsys.readouterr()
        usb_update(["bundle", "diff", "a", "b", "--all"])

        assert capsys.readouterr().out.count("      + /usr/bin/") == 13

    def test_for_programs(self, two: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
        capsys.readouterr()
        usb_update(["bundle", "diff", "a", "b", "--json"])
        said = json.loads(capsys.readouterr().out)
        (update,) = said["updates"]

        assert said["targets"] == {
            "added": ["rpi-lmp-42"],
            "removed": ["rpi-lmp-41"],
            "changed": [],
            "same": [],
        }
        assert update["bytes"] == only(diff(two, two.path / "a", two.path / "b")).size
        assert update["rootfs"]["removed"] == ["/usr/bin/one"]
        assert len(update["apps"][0]["layers_added"]) == 1

    @pytest.mark.usefixtures("two")
    def test_no_bundle_is_one_sentence(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert usb_update(["bundle", "diff", "a", "nothing"]) == 1
        assert "this is no bundle" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "words"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_234_567, "1.2 MB"),
                        (5_000_000_000_000, "5000.0 GB")]
)  # fmt: skip
def test_amounts(size: int, words: str) -> None:
    assert amount(size) == words


def test_the_example_of_the_documents(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Digests and sizes apart, for they depend on the versions of the tools."""
    monkeypatch.chdir(shop.path)
    apps = (app(shop, "shop"),)
    bundle(shop, "old", version=42, ref=rootfs(shop, version=b"1"), apps=apps,
           images=(layout(shop, web(b"1")),))  # fmt: skip
    bundle(shop, "new", version=43, ref=rootfs(shop, version=b"2", new=PROGRAM), apps=apps,
           images=(layout(shop, web(b"2")),))  # fmt: skip
    document = (Path(__file__).parents[2] / "docs/authoring.md").read_text(encoding="utf-8")
    typed, _, answer = document.split("<!-- example: diff -->\n```console\n$ ")[1].partition("\n")
    capsys.readouterr()
    usb_update(typed.split()[1:])

    assert measured(answer.split("```")[0]) == measured(capsys.readouterr().out)


def measured(text: str) -> str:
    """Put one word in place of every size and digest."""
    return re.sub(r"\b[0-9a-f]{12}\b|\b[0-9.]+ k?B\b", "X", text)
