"""Compose Apps in bundles: packed, pinned, and stored so that every reader finds them."""

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
import yaml

from agent.adapters.authoring import plan_apps
from agent.adapters.authoring.composefile import HASH_LABEL, pin_compose
from agent.adapters.authoring.directory import DirectoryApp
from agent.adapters.authoring.images import image_sources
from agent.adapters.authoring.packing import PackedFiles, pack
from agent.adapters.authoring.references import parse_reference
from agent.adapters.authoring.store import PlannedApp, plan_app
from agent.core.authoring import AuthoringError
from agent.services import author
from tests.app_store import Image, make_image, sha256, tar_of
from tests.authoring_desk import Workshop, files_below, workshop
from tests.image_files import docker_archive, oci_archive, oci_layout

BASE = tar_of({"etc/base": b"base" * 1000})
WEB = "docker.io/library/web:1"
COMPOSE = """\
services:
  web:
    image: web:1
    ports: [22:22, 80:80]
    environment: {DEBUG: no}
"""


def web(**options: object) -> Image:
    return make_image([BASE, tar_of({"web": b"web"})], **options)  # type: ignore[arg-type]


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return workshop(tmp_path)


def app(path: Path, name: str = "shop", compose: str = COMPOSE, **files: bytes) -> Path:
    directory = path / name
    directory.mkdir(parents=True)
    (directory / "docker-compose.yml").write_text(compose, encoding="utf-8")
    for file, data in files.items():
        (directory / file).write_bytes(data)
    return directory


def plan(directory: Path, *sources: Path | str, arch: str = "") -> PlannedApp:
    with image_sources([str(source) for source in sources]) as opened:
        scratch = directory.parent
        return plan_app(
            DirectoryApp(directory), opened, scratch, prefix="hub.local/factory", arch=arch
        )


def packed_files(directory: Path, compose: bytes = b"") -> PackedFiles:
    return pack(DirectoryApp(directory), compose, directory.with_suffix(".tgz"))


def service(planned: PlannedApp, name: str = "web") -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load(planned.compose)["services"][name]
    return found


class TestBundles:
    def test_a_device_accepts_the_app_and_all_its_blobs(self, shop: Workshop) -> None:
        layout = oci_layout(shop.path / "layout", {WEB: web()})
        info = shop.create(apps=(app(shop.path),), images=(str(layout),))

        assert [a.name for a in info.targets[0].apps] == ["shop"]
        assert shop.judge(deep=True).accepted

    def test_both_store_layouts_are_there(self, shop: Workshop) -> None:
        image = web()
        layout = oci_layout(shop.path / "layout", {WEB: image})
        info = shop.create(apps=(app(shop.path),), images=(str(layout),))
        found = files_below(shop.bundle / "apps")
        ref = info.targets[0].apps[0]
        view = f"apps/shop/{ref.digest}"
        archive = json.loads(found[f"{view}/manifest.json"])["layers"][0]["digest"][7:]
        image_view = f"{view}/images/docker.io/library/web/{image.root}"
        index = json.loads(found[f"{image_view}/index.json"])

        assert found[f"{view}/uri"] == ref.uri.encode()
        assert ref.uri.startswith("hub.local/factory/shop@sha256:")
        assert found[f"{view}/{archive}.tgz"] == found[f"blobs/sha256/{archive}"]
        assert found[f"{view}/manifest.json"] == found[f"blobs/sha256/{ref.digest}"]
        assert [entry["digest"] for entry in index["manifests"]] == [f"sha256:{image.manifest}"]
        assert json.loads(found[f"{image_view}/oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
        for name, data in found.items():
            if name.startswith("blobs/"):
                assert sha256(data) == name.removeprefix("blobs/sha256/")

    def test_layers_that_apps_share_are_written_once(self, shop: Workshop) -> None:
        seen: list[tuple[int, int]] = []
        other = make_image([BASE, tar_of({"db": b"db"})])
        layout = oci_layout(shop.path / "layout", {WEB: web(), "docker.io/library/db:1": other})
        apps = (
            app(shop.path, "shop"),
            app(shop.path, "stock", "services: {db: {image: 'db:1'}, web: {image: 'web:1'}}"),
        )

        def progress(step: str, done: int, total: int) -> None:
            if step == "Apps":
                seen.append((done, total))

        with plan_apps(apps, [str(layout)], author.DEFAULT_PREFIX, "") as planned:
            shop.desk().bundle(shop.bundle).add_apps(planned, progress)
        blobs = (shop.bundle / "apps/blobs/sha256").iterdir()

        assert seen[-1] == (seen[-1][1], sum(blob.stat().st_size for blob in blobs))

    def test_a_second_target_does_not_write_what_is_there(self, shop: Workshop) -> None:
        layout = oci_layout(shop.path / "layout", {WEB: web()})
        spec: dict[str, object] = {"apps": (app(shop.path),), "images": (str(layout),)}
        shop.create(42, **spec)
        blobs = shop.bundle / "apps/blobs/sha256"
        before = {blob.name: blob.stat().st_mtime_ns for blob in blobs.iterdir()}
        shop.create(43, allow_multiple_targets=True, **spec)

        assert {blob.name: blob.stat().st_mtime_ns for blob in blobs.iterdir()} == before

    @pytest.mark.parametrize("cut", ["layer", "manifest"])
    def test_reading_it_finds_a_damaged_blob(self, shop: Workshop, cut: str) -> None:
        image = web()
        layout = oci_layout(shop.path / "layout", {WEB: image})
        shop.create(apps=(app(shop.path),), images=(str(layout),))
        name = image.layers[0] if cut == "layer" else image.manifest
        blob = shop.bundle / "apps/blobs/sha256" / name
        blob.write_bytes(blob.read_bytes()[::-1])
        verdict = shop.judge(deep=True)

        assert shop.judge().accepted
        assert int(verdict.outcome.exit) == 50
        assert name in verdict.damaged[0]

    def test_reading_it_finds_a_missing_layer(self, shop: Workshop) -> None:
        image = web()
        layout = oci_layout(shop.path / "layout", {WEB: image})
        shop.create(apps=(app(shop.path),), images=(str(layout),))
        (shop.bundle / "apps/blobs/sha256" / image.layers[1]).unlink()

        assert shop.judge(deep=True).damaged == (
            f"blob sha256:{image.layers[1]} of App 'shop' is missing",
        )

    def test_a_uri_with_a_line_end_is_8_and_named(self, shop: Workshop) -> None:
        layout = oci_layout(shop.path / "layout", {WEB: web()})
        shop.create(apps=(app(shop.path),), images=(str(layout),))
        uri = next(shop.bundle.rglob("uri"))
        uri.write_bytes(uri.read_bytes() + b"\n")
        verdict = shop.judge()

        assert int(verdict.outcome.exit) == 8
        assert str(uri) in verdict.warnings[0]

    def test_a_layer_that_differs_at_its_source_is_not_listed(self, shop: Workshop) -> None:
        image = web()
        layout = oci_layout(shop.path / "layout", {WEB: image})
        blob = layout / "blobs/sha256" / image.layers[0]
        blob.write_bytes(blob.read_bytes()[::-1])

        with pytest.raises(AuthoringError, match="has other content at its source"):
            shop.create(apps=(app(shop.path),), images=(str(layout),))
        assert not list(shop.bundle.rglob("bundle-targets.json"))
        assert not list(shop.bundle.rglob("uri"))

    def test_two_apps_of_one_name_are_refused(self, shop: Workshop) -> None:
        layout = oci_layout(shop.path / "layout", {WEB: web()})
        apps = (app(shop.path / "a"), app(shop.path / "b"))

        with pytest.raises(AuthoringError, match="same name"):
            shop.create(apps=apps, images=(str(layout),))
        assert not shop.bundle.exists()


class TestImages:
    @pytest.mark.parametrize("kind", ["oci", "docker", "index"])
    def test_a_layouts_digest_is_kept(self, tmp_path: Path, kind: str) -> None:
        image = web(kind=kind)
        planned = plan(app(tmp_path), oci_layout(tmp_path / "layout", {WEB: image}))

        assert service(planned)["image"] == f"docker.io/library/web@sha256:{image.root}"
        assert planned.archs == {"amd64"}

    def test_so_is_that_of_a_new_docker_save(self, tmp_path: Path) -> None:
        image = web()
        planned = plan(app(tmp_path), oci_archive(tmp_path / "saved.tar", {WEB: image}))

        assert service(planned)["image"] == f"docker.io/library/web@sha256:{image.root}"

    def test_an_old_docker_save_gets_a_v2s2_manifest(self, tmp_path: Path) -> None:
        image = web()
        planned = plan(app(tmp_path), docker_archive(tmp_path / "saved.tar", {"web:1": image}))
        (made,) = planned.images
        types = [blob.media_type.rpartition(".")[2] for blob in made.blobs]

        assert made.root.media_type == "application/vnd.docker.distribution.manifest.v2+json"
        assert made.blobs[1].hex == image.config
        assert [blob.hex for blob in made.blobs[2:]] == [
            sha256(BASE), sha256(tar_of({"web": b"web"})),
        ]  # fmt: skip
        assert types[2:] == ["tar", "tar"]

    def test_compressed_layers_of_an_archive_keep_their_own_digest(self, tmp_path: Path) -> None:
        image = web()
        saved = docker_archive(tmp_path / "a.tar", {"web:1": image}, compressed_layers=True)
        (made,) = plan(app(tmp_path), saved).images

        assert tuple(blob.hex for blob in made.blobs[2:]) == image.layers

    def test_a_compressed_archive(self, tmp_path: Path) -> None:
        plain = docker_archive(tmp_path / "saved.tar", {"web:1": web()})
        packed = tmp_path / "saved.tar.gz"
        packed.write_bytes(gzip.compress(plain.read_bytes()))

        one, other = plan(app(tmp_path / "a"), plain), plan(app(tmp_path / "b"), packed)
        assert one.ref == other.ref

    def test_a_pinned_reference_is_kept_when_the_source_has_it(self, tmp_path: Path) -> None:
        image = web()
        pinned = f"quay.io/x/web@sha256:{image.root}"
        directory = app(tmp_path, compose=f"services: {{web: {{image: '{pinned}'}}}}")

        planned = plan(directory, oci_layout(tmp_path / "layout", {WEB: image}))
        assert service(planned)["image"] == pinned

    def test_a_pinned_reference_that_nobody_has_is_refused(self, tmp_path: Path) -> None:
        pinned = "quay.io/x/web@sha256:" + "0" * 64
        directory = app(tmp_path, compose=f"services: {{web: {{image: '{pinned}'}}}}")

        with pytest.raises(AuthoringError, match="is in none of the image sources"):
            plan(directory, oci_layout(tmp_path / "layout", {WEB: web()}))

    def test_an_image_without_a_name_can_be_given_one(self, tmp_path: Path) -> None:
        image = web()
        layout = oci_layout(tmp_path / "layout", {"latest": image})
        with pytest.raises(AuthoringError, match="nothing named"):
            plan(app(tmp_path / "a"), layout)

        planned = plan(app(tmp_path / "b"), f"web:1={layout}")
        assert service(planned)["image"] == f"docker.io/library/web@sha256:{image.root}"

    def test_a_platform_is_chosen_among_several(self, tmp_path: Path) -> None:
        layout = oci_layout(tmp_path / "layout", {WEB: web(kind="index", architecture="arm64")})

        assert plan(app(tmp_path / "a"), layout, arch="arm64").archs == {"arm64"}
        with pytest.raises(AuthoringError, match="platforms there: arm64"):
            plan(app(tmp_path / "b"), layout, arch="amd64")

    def test_a_layer_the_source_lacks_is_named(self, tmp_path: Path) -> None:
        image = web()
        layout = oci_layout(tmp_path / "layout", {WEB: image})
        (layout / "blobs/sha256" / image.layers[1]).unlink()

        with pytest.raises(AuthoringError, match=f"{image.layers[1]} .* is missing"):
            plan(app(tmp_path), layout)

    @pytest.mark.parametrize("content", [b"", b"not a tar", tar_of({"x": b""})])
    def test_what_is_no_image_source_is_named(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "source"
        path.write_bytes(content)

        with pytest.raises(AuthoringError, match=str(path)):
            plan(app(tmp_path), path)

    @pytest.mark.parametrize(
        ("text", "full"),
        [
            ("busybox", "docker.io/library/busybox:latest"),
            ("a/b:2", "docker.io/a/b:2"),
            ("localhost/b", "localhost/b:latest"),
            ("reg.io:5000/a/b/c:x", "reg.io:5000/a/b/c:x"),
        ],
    )
    def test_references_are_completed_as_docker_does(self, text: str, full: str) -> None:
        assert parse_reference(text).tagged == full

    @pytest.mark.parametrize("text", ["", "A", "a@sha256:1", "a b", "${X}/a", "a:", "/a", "a//b"])
    def test_what_is_no_reference_is_refused(self, text: str) -> None:
        with pytest.raises(AuthoringError):
            parse_reference(text)


class TestComposeFiles:
    def pin(self, text: str) -> dict[str, dict[str, object]]:
        made = pin_compose(text.encode(), lambda image: f"{image}@pinned", "the file")
        services: dict[str, dict[str, object]] = yaml.safe_load(made)["services"]
        return services

    def test_scalars_keep_their_spelling(self) -> None:
        """``22:22`` is a number in YAML 1.1 and text in 1.2; ``no`` is false or text."""
        made = pin_compose(COMPOSE.encode(), lambda image: image, "the file").decode()

        assert "- 22:22\n" in made
        assert "DEBUG: no\n" in made

    def test_builds_are_dropped(self) -> None:
        services = self.pin("services: {web: {image: web, build: {context: .}}}")

        assert "build" not in services["web"]

    @pytest.mark.parametrize("labels", ["", ", labels: {a: b}", ", labels: [a=b]"])
    def test_each_service_is_labelled_with_its_hash(self, labels: str) -> None:
        services = self.pin(f"services: {{web: {{image: web{labels}}}}}")

        assert HASH_LABEL in str(services["web"]["labels"])
        assert ("a" in str(services["web"]["labels"])) or not labels

    def test_services_that_share_labels_have_hashes_of_their_own(self) -> None:
        services = self.pin(
            "x-common: &common {labels: {a: b}}\n"
            "services:\n  one: {<<: *common, image: one}\n  two: {<<: *common, image: two}\n"
        )
        hashes = [s["labels"][HASH_LABEL] for s in services.values()]  # type: ignore[index]

        assert len(set(hashes)) == 2
        assert services["one"]["labels"]["a"] == "b"  # type: ignore[index]

    def test_an_image_that_is_merged_in_is_pinned(self) -> None:
        services = self.pin(
            "x-common: &common {image: web}\nservices: {one: {<<: *common, command: x}}\n"
        )

        assert services["one"]["image"] == "web@pinned"

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "services: []",
            "services: {}",
            "services: {web: }",
            "services: {web: {}}",
            "services: {web: {build: .}}",
            "services: {web: {image: [a]}}",
            "services: {web: {image: a, labels: 3}}",
            "services: {web: {image: a",
            "a: *nowhere",
            "{" * 5000,
        ],
    )
    def test_what_is_no_compose_file_is_refused(self, text: str) -> None:
        with pytest.raises(AuthoringError, match="the file"):
            self.pin(text)


class TestPacking:
    def test_times_owners_and_order_do_not_matter(self, tmp_path: Path) -> None:
        one = app(tmp_path / "a", a=b"1", b=b"2")
        other = app(tmp_path / "b", b=b"2", a=b"1")
        os.utime(other / "a", (1, 1))
        (other / "b").chmod(0o600)

        assert packed_files(one).descriptor == packed_files(other).descriptor

    def test_only_the_executable_bit_survives(self, tmp_path: Path) -> None:
        directory = app(tmp_path, run=b"#!/bin/sh", data=b"")
        (directory / "run").chmod(0o4770)
        with tarfile.open(packed_files(directory).path) as tar:
            modes = {entry.name: entry.mode for entry in tar}

        assert modes == {"run": 0o755, "data": 0o644, "docker-compose.yml": 0o644}

    def test_the_index_names_every_file(self, tmp_path: Path) -> None:
        packed = packed_files(app(tmp_path, data=b"data"), b"pinned")

        assert json.loads(packed.index) == {
            "data": f"sha256:{sha256(b'data')}",
            "docker-compose.yml": f"sha256:{sha256(b'pinned')}",
        }

    def test_ignored_files_stay_behind(self, tmp_path: Path) -> None:
        directory = app(tmp_path, secret=b"", keep=b"")
        (directory / "build").mkdir()
        (directory / "build/x").write_bytes(b"")
        (directory / "build/y").write_bytes(b"")
        (directory / ".composeappignores").write_text("# no\nsecret\nbuild\n!build/y\n*.yml\n")

        assert set(json.loads(packed_files(directory).index)) == {
            "build/y",
            "docker-compose.yml",
            "keep",
        }

    def test_links_that_stay_inside_stay_links(self, tmp_path: Path) -> None:
        directory = app(tmp_path, data=b"")
        (directory / "sub").mkdir()
        (directory / "sub/link").symlink_to("../data")
        with tarfile.open(packed_files(directory).path) as tar:
            assert tar.getmember("sub/link").linkname == "../data"

    @pytest.mark.parametrize("target", ["/etc/passwd", "../x", "sub/../../x", "../../shop/data"])
    def test_links_that_lead_outside_are_refused(self, tmp_path: Path, target: str) -> None:
        directory = app(tmp_path)
        (directory / "link").symlink_to(target)

        with pytest.raises(AuthoringError, match="leads outside"):
            packed_files(directory)

    def test_special_files_are_refused(self, tmp_path: Path) -> None:
        directory = app(tmp_path)
        os.mkfifo(directory / "fifo")

        with pytest.raises(AuthoringError, match="special file"):
            packed_files(directory)

    def test_the_archive_is_a_plain_gzip_tar(self, tmp_path: Path) -> None:
        packed = packed_files(app(tmp_path, data=b"data"), b"pinned")
        data = packed.path.read_bytes()

        assert (sha256(data), len(data)) == (packed.descriptor.hex, packed.descriptor.size)
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as tar:
            assert tar.getnames() == ["data", "docker-compose.yml"]

    def test_a_compose_file_of_another_name_is_pointed_out(self, tmp_path: Path) -> None:
        directory = app(tmp_path)
        (directory / "docker-compose.yml").rename(directory / "compose.yaml")

        with pytest.raises(AuthoringError, match=r"found compose\.yaml"):
            plan(directory)

    def test_an_app_is_called_as_its_directory(self, tmp_path: Path) -> None:
        with pytest.raises(AuthoringError, match="expected lowercase letters"):
            plan(app(tmp_path, "My App"))
