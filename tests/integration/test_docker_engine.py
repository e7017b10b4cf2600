"""The engines that other tests rely on, and what they leave behind."""

import os
import re
from pathlib import Path

import docker

from tests.docker_engine import Engine, mounts_below
from tests.images import busybox_image

NAME = "example.com/factory/web:1"
COMPOSE = f"""\
services:
  web:
    image: {NAME}
    command: ["/bin/sh", "-c", "cat /marker; exec sleep 3600"]
    stop_signal: SIGKILL
"""


def compose_up(engine: Engine, directory: Path, text: str) -> str:
    (directory / "docker-compose.yml").write_text(text)
    compose = ("compose", "--project-directory", directory)
    engine.run(*compose, "up", "--detach", "--remove-orphans", "--pull", "never")
    return engine.run(*compose, "logs", "--no-log-prefix")


def test_an_image_loads_and_runs(docker_engines: Engine, tmp_path: Path) -> None:
    docker_engines.load(busybox_image(tmp_path, NAME, marker="hello"))

    out = docker_engines.run("run", "--rm", "--network=none", NAME, "/bin/cat", "/marker")

    assert out == "hello"


def test_a_compose_project_starts_without_a_network(docker_engines: Engine, tmp_path: Path) -> None:
    docker_engines.load(busybox_image(tmp_path, NAME, marker="hello"))

    compose_up(docker_engines, tmp_path, COMPOSE + "    network_mode: none\n")

    assert len(docker_engines.containers(running=True)) == 1


def test_a_compose_project_gets_its_own_network(docker_engines: Engine, tmp_path: Path) -> None:
    docker_engines.load(busybox_image(tmp_path, NAME))

    compose_up(docker_engines, tmp_path, COMPOSE)

    assert "_default" in docker_engines.run("network", "ls")


def test_the_sdk_finds_the_engine(docker_engine: Engine) -> None:
    client = docker.from_env()
    try:
        version = client.version()["Version"]
    finally:
        client.close()

    assert version.startswith(docker_engine.flavour.version)


def test_a_test_finds_its_engine_empty(docker_engines: Engine) -> None:
    assert [] == docker_engines.images() + docker_engines.containers()


def test_an_image_is_the_same_every_time(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    paths = [
        busybox_image(d, NAME, marker="m", size_bytes=99) for d in (tmp_path, tmp_path / "again")
    ]

    assert len({path.read_bytes() for path in paths}) == 1


def test_an_engine_leaves_nothing_behind(docker_engine: Engine, tmp_path: Path) -> None:
    archive = busybox_image(tmp_path, NAME)

    with Engine(docker_engine.flavour) as engine:
        engine.load(archive)
        compose_up(engine, tmp_path, COMPOSE)
        bridges = bridges_of(engine)
        root = engine.root
        assert bridges
        assert mounts_below(root)

    assert not root.exists()
    assert not mounts_below(root)
    assert not bridges & {path.name for path in Path("/sys/class/net").iterdir()}
    assert not naming(root)


def bridges_of(engine: Engine) -> set[str]:
    networks = engine.run("network", "ls", "--filter", "type=custom", "--format", "{{.ID}}")
    return {f"br-{network}" for network in networks.split()}


def naming(root: Path) -> list[bytes]:
    """Return the command lines that name ``root``."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [line for line in lines if re.search(re.escape(os.fsencode(root)), line)]
