"""From one Docker engine into a bundle, and from the bundle into a device's engine."""

import gc
import json
import tarfile
from pathlib import Path

import pytest

from agent.adapters.apps import ComposeApps
from agent.core.authoring import AuthoringError
from tests.app_store import busybox_layer, make_image
from tests.authoring_desk import Workshop, workshop
from tests.docker_engine import Engine
from tests.image_files import docker_archive

COMPOSE = """\
services:
  web:
    image: IMAGE
    command: [sleep, "3600"]
    network_mode: none
"""


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return workshop(tmp_path)


def app(path: Path, image: str = "web:1") -> Path:
    directory = path / "shop"
    directory.mkdir()
    (directory / "docker-compose.yml").write_text(COMPOSE.replace("IMAGE", image))
    return directory


def saved(path: Path) -> Path:
    return docker_archive(path / "saved.tar", {"web:1": make_image([busybox_layer()])})


def device(path: Path) -> ComposeApps:
    return ComposeApps(path / "device/store", path / "device/projects", watermark=95)


@pytest.mark.parametrize("source", ["engine", "archive"])
def test_an_app_travels_from_engine_to_engine(
    shop: Workshop, tmp_path: Path, docker_engines: Engine, source: str
) -> None:
    """The author's engine gives the image, the device's runs it: by digest, with no network."""
    docker_engines.load(saved(tmp_path))
    archive = tmp_path / "exported.tar"
    docker_engines.run("save", "--output", archive, "web:1")
    image = "docker:" if source == "engine" else str(archive)
    info = shop.create(apps=(app(tmp_path),), images=(image,))
    verdict = shop.judge(deep=True)
    docker_engines.wipe()
    (ref,) = info.targets[0].apps
    apps = device(tmp_path)
    apps.fetch(shop.bundle / "apps", ref, lambda *_: None)
    apps.check(ref)
    apps.start(ref)

    assert verdict.accepted
    assert docker_engines.containers(running=True) == ["shop-web-1"]
    assert apps.running((ref,))


def test_the_bundles_image_loads_with_docker_itself(
    shop: Workshop, tmp_path: Path, docker_engine: Engine
) -> None:
    """What a bundle holds can be put together to an archive that any engine takes."""
    shop.create(apps=(app(tmp_path),), images=(str(saved(tmp_path)),))
    blobs = shop.bundle / "apps/blobs/sha256"
    index = json.loads(next(shop.bundle.rglob("index.json")).read_bytes())
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_bytes())
    config, layers = manifest["config"]["digest"][7:], manifest["layers"]
    names = [layer["digest"][7:] for layer in layers]
    listed = [{"Config": config, "RepoTags": ["again:1"], "Layers": names}]
    (tmp_path / "manifest.json").write_text(json.dumps(listed), encoding="ascii")
    with tarfile.open(tmp_path / "again.tar", "w") as tar:
        tar.add(tmp_path / "manifest.json", "manifest.json")
        for name in (config, *names):
            tar.add(blobs / name, name)
    docker_engine.load(tmp_path / "again.tar")

    assert docker_engine.image("again:1")["Id"] == f"sha256:{config}"


def test_an_image_the_engine_does_not_have(
    shop: Workshop, tmp_path: Path, docker_engine: Engine
) -> None:
    with pytest.raises(AuthoringError, match="is in none of the image sources"):
        shop.create(apps=(app(tmp_path),), images=("docker:",))
    assert not shop.bundle.exists()


# The docker SDK leaves the socket that it could not connect to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_engine_that_does_not_answer(
    shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody")

    with pytest.raises(AuthoringError, match="cannot be asked for") as caught:
        shop.create(apps=(app(tmp_path),), images=("docker:",))
    del caught
    gc.collect()
