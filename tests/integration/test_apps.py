"""Compose Apps on real Docker engines, with the real `docker compose`."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.adapters.apps import ComposeApps
from agent.core.errors import AppError, AppStartError, ComposeInvalidError
from agent.core.target import AppRef
from tests.app_store import (
    Image,
    Kind,
    busybox_layer,
    make_app,
    make_image,
    reference,
    regular,
    tar_of,
)
from tests.docker_engine import Engine

PLAIN = """services:
  main:
    image: "{web}"
    network_mode: none
    stop_grace_period: 0s
"""
WITH_FILES = PLAIN + '    volumes: ["./conf:/conf:ro", "./data:/data"]\n'


def quiet(_step: str, _done: int, _total: int) -> None:
    """Progress that nobody looks at."""


def image(marker: str = "1", *, kind: Kind = "oci", cmd: str = "sleep 3600") -> Image:
    layers = [busybox_layer(), tar_of({"marker": marker.encode()})]
    return make_image(layers, kind=kind, cmd=["/bin/sh", "-c", cmd])


@dataclass
class Desk:
    """A bundle's App store and a device on one engine."""

    root: Path
    engine: Engine

    @property
    def bundle(self) -> Path:
        return self.root / "bundle"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def projects(self) -> Path:
        return self.root / "projects"

    def apps(self, **more: object) -> ComposeApps:
        return ComposeApps(
            self.store,
            self.projects,
            compose_bin=Path(shutil.which("docker") or "docker"),
            docker_host=self.engine.host,
            engine_root=self.root,
            watermark=95,
            **more,  # type: ignore[arg-type]
        )

    def fetched(self, compose: str, images: dict[str, Image], **more: object) -> AppRef:
        app = make_app(self.bundle, "web", compose, images, **more)  # type: ignore[arg-type]
        self.apps().fetch(self.bundle, app, quiet)
        return app

    def container(self, service: str = "main") -> dict[str, object]:
        return json.loads(self.engine.run("inspect", f"web-{service}-1"))[0]  # type: ignore[no-any-return]


@pytest.fixture
def desk(tmp_path: Path, docker_engine: Engine) -> Desk:
    return Desk(tmp_path, docker_engine)


@pytest.fixture
def each_desk(tmp_path: Path, docker_engines: Engine) -> Desk:
    return Desk(tmp_path, docker_engines)


# --- every engine ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["oci", "docker", "index"])
def test_an_app_pinned_by_digest_starts(each_desk: Desk, kind: Kind) -> None:
    """On unpatched engines, from every kind of image, without a network."""
    desk = each_desk
    app = desk.fetched(PLAIN, {"web": image(kind=kind)})
    assert not desk.apps().running([app])

    desk.apps().check(app)
    desk.apps().start(app)

    assert ["web-main-1"] == desk.engine.containers(running=True)
    assert desk.apps().running([app])
    assert "1" == desk.engine.run("exec", "web-main-1", "cat", "/marker")


def test_starting_twice_changes_nothing(each_desk: Desk) -> None:
    desk = each_desk
    app = desk.fetched(WITH_FILES, {"web": image()}, files={"conf/a": b"1"})
    desk.apps().start(app)
    before = desk.container()["Id"]

    desk.apps().start(app)

    assert before == desk.container()["Id"]


def test_an_update_replaces_the_container_and_keeps_the_data(each_desk: Desk) -> None:
    desk = each_desk
    one = desk.fetched(WITH_FILES, {"web": image("1")}, files={"conf/a": b"1", "conf/old": b""})
    desk.apps().start(one)
    desk.engine.run("exec", "web-main-1", "touch", "/data/precious")
    two = desk.fetched(WITH_FILES, {"web": image("2")}, files={"conf/a": b"2"})

    desk.apps().start(two)

    assert (desk.projects / "web/data/precious").exists()
    assert "2" == desk.engine.run("exec", "web-main-1", "cat", "/marker")
    assert "2" == desk.engine.run("exec", "web-main-1", "cat", "/conf/a")
    assert not (desk.projects / "web/conf/old").exists()
    assert desk.apps().running([two])
    assert not desk.apps().running([one])


def test_pruning_removes_the_images_of_the_old_version(each_desk: Desk) -> None:
    desk = each_desk
    one = desk.fetched(PLAIN, {"web": image("1")})
    desk.apps().start(one)
    two = desk.fetched(PLAIN, {"web": image("2")})
    desk.apps().start(two)
    assert 2 == len(desk.engine.images())

    desk.apps().prune([two])

    assert 1 == len(desk.engine.images())
    assert desk.apps().running([two])
    assert (one,) == desk.apps().missing([one, two])


def test_an_image_that_is_there_is_not_loaded_again(each_desk: Desk) -> None:
    desk = each_desk
    web = image()
    app = desk.fetched(PLAIN, {"web": web})
    desk.apps().start(app)
    layer = desk.store / "blobs/sha256" / web.layers[0]
    data = layer.read_bytes()
    layer.write_bytes(bytes(len(data)))  # the same size, so that only a load would notice

    desk.apps().start(app)

    assert desk.apps().running([app])


def test_a_moved_tag_is_not_believed(each_desk: Desk) -> None:
    """Anyone who may talk to the engine can move a tag; what runs is what was signed."""
    desk = each_desk
    good = image("good")
    app = desk.fetched(PLAIN, {"web": good})
    desk.apps().start(app)
    other = desk.fetched(PLAIN, {"web": image("other")})
    desk.apps().start(other)
    repository, _, digest = reference("web", good).partition("@sha256:")
    others = reference("web", image("other")).partition("@sha256:")[2]
    desk.engine.run("tag", f"{repository}:{others[:7]}", f"{repository}:{digest[:7]}")

    desk.apps().start(app)

    assert "good" == desk.engine.run("exec", "web-main-1", "cat", "/marker")


def test_a_damaged_layer_is_found_when_the_engine_refuses_it(each_desk: Desk) -> None:
    desk = each_desk
    web = image()
    app = desk.fetched(PLAIN, {"web": web})
    layer = desk.store / "blobs/sha256" / web.layers[0]
    data = bytearray(layer.read_bytes())
    data[len(data) // 2] ^= 1
    layer.write_bytes(bytes(data))

    with pytest.raises(AppStartError, match=web.layers[0]):
        desk.apps().start(app)

    assert (app,) == desk.apps().missing([app])
    desk.apps().fetch(desk.bundle, app, quiet)
    desk.apps().start(app)
    assert desk.apps().running([app])


# --- one engine ------------------------------------------------------------------------


def test_services_that_share_layers_start(desk: Desk) -> None:
    compose = PLAIN + '  side:\n    image: "{side}"\n    network_mode: none\n'
    app = desk.fetched(compose, {"web": image("1"), "side": image("2")})

    desk.apps().start(app)

    assert ["web-main-1", "web-side-1"] == desk.engine.containers(running=True)


def test_a_service_that_is_gone_in_the_new_version_is_removed(desk: Desk) -> None:
    compose = PLAIN + '  side:\n    image: "{web}"\n    network_mode: none\n'
    desk.apps().start(desk.fetched(compose, {"web": image()}))

    desk.apps().start(desk.fetched(PLAIN, {"web": image()}))

    assert ["web-main-1"] == desk.engine.containers()


def test_a_changed_file_alone_makes_containers_anew(desk: Desk) -> None:
    """Compose sees no difference; a container that mounted the file would keep the old one."""
    compose = PLAIN + '    volumes: ["./app.conf:/app.conf:ro"]\n'
    desk.apps().start(desk.fetched(compose, {"web": image()}, files={"app.conf": b"1"}))

    desk.apps().start(desk.fetched(compose, {"web": image()}, files={"app.conf": b"2"}))

    assert "2" == desk.engine.run("exec", "web-main-1", "cat", "/app.conf")


def test_the_config_hash_of_a_container_counts(desk: Desk) -> None:
    compose = PLAIN + "    labels: {io.compose-spec.config-hash: one}\n"
    app = desk.fetched(compose, {"web": image()})
    desk.apps().start(app)
    assert desk.apps().running([app])
    desk.engine.run("rm", "--force", "web-main-1")
    desk.engine.run(
        "run", "-d", "--name", "web-main-1", "--network", "none",
        "--label", "com.docker.compose.project=web", "--label", "com.docker.compose.service=main",
        "--label", "com.docker.compose.oneoff=False",
        "--label", "io.compose-spec.config-hash=another", desk.engine.images()[0],
    )  # fmt: skip

    assert not desk.apps().running([app])


def test_an_app_whose_container_is_gone_does_not_run(desk: Desk) -> None:
    app = desk.fetched(PLAIN, {"web": image()})
    desk.apps().start(app)
    desk.engine.run("rm", "--force", "web-main-1")

    assert not desk.apps().running([app])
    assert (app,) == desk.apps().installed()


def test_a_container_that_ends_counts_as_started_without_a_health_check(desk: Desk) -> None:
    """As the reference has it."""
    app = desk.fetched(PLAIN, {"web": image(cmd="true")})

    desk.apps(start_timeout_s=5).start(app)

    assert desk.apps().running([app])


def health(test: str) -> str:
    return PLAIN + (
        f'    healthcheck: {{test: ["CMD", "{test}"], interval: 1s, timeout: 1s, retries: 1}}\n'
    )


def test_a_healthy_service_is_waited_for(desk: Desk) -> None:
    app = desk.fetched(health("/bin/true"), {"web": image()})

    desk.apps(start_timeout_s=30).start(app)

    assert "healthy" == desk.container()["State"]["Health"]["Status"]  # type: ignore[index]


def test_an_unhealthy_service_is_a_failed_start(desk: Desk) -> None:
    app = desk.fetched(health("/bin/false"), {"web": image(cmd="echo no disk; sleep 3600")})

    with pytest.raises(AppStartError, match=r"'main' of App 'web' is unhealthy.*no disk"):
        desk.apps(start_timeout_s=30).start(app)

    assert not desk.apps().running([app])


def test_a_service_that_ends_before_it_is_healthy_is_a_failed_start(desk: Desk) -> None:
    app = desk.fetched(health("/bin/true"), {"web": image(cmd="echo broken; exit 3")})

    with pytest.raises(AppStartError, match=r"'main' of App 'web' ended with status 3.*broken"):
        desk.apps(start_timeout_s=30).start(app)


def test_a_service_that_is_not_healthy_in_time_is_a_failed_start(desk: Desk) -> None:
    compose = PLAIN + '    healthcheck: {test: ["CMD", "/bin/true"], interval: 60s}\n'
    app = desk.fetched(compose, {"web": image()})

    with pytest.raises(AppStartError, match=r"'main' of App 'web' was not healthy after 0\.1 s"):
        desk.apps(start_timeout_s=0.1).start(app)


def test_without_a_timeout_health_is_not_waited_for(desk: Desk) -> None:
    app = desk.fetched(health("/bin/false"), {"web": image()})

    desk.apps().start(app)

    assert desk.apps().running([app])


def test_a_program_that_is_not_there_is_a_failed_start(desk: Desk) -> None:
    web = make_image([busybox_layer()], cmd=["/bin/absent"])
    app = desk.fetched(PLAIN, {"web": web})

    with pytest.raises(AppStartError, match="/bin/absent"):
        desk.apps().start(app)

    assert not desk.apps().running([app])


def test_a_start_before_the_fetch_is_a_failed_start(desk: Desk) -> None:
    app = make_app(desk.bundle, "web", PLAIN, {"web": image()})

    with pytest.raises(AppStartError, match="not whole in the store"):
        desk.apps().start(app)


def test_the_way_back_starts_the_old_version_with_its_data(desk: Desk) -> None:
    one = desk.fetched(WITH_FILES, {"web": image("1")}, files={"conf/a": b"1"})
    desk.apps().start(one)
    desk.engine.run("exec", "web-main-1", "touch", "/data/precious")
    broken = make_image([busybox_layer()], cmd=["/bin/absent"])
    two = desk.fetched(WITH_FILES, {"web": broken}, files={"conf/a": b"2", "conf/new": b""})
    with pytest.raises(AppStartError):
        desk.apps().start(two)

    desk.apps().start(one)

    assert desk.apps().running([one])
    assert "1" == desk.engine.run("exec", "web-main-1", "cat", "/conf/a")
    assert (desk.projects / "web/data/precious").exists()
    assert not (desk.projects / "web/conf/new").exists()


def test_stopping_keeps_the_files_and_pruning_removes_them(desk: Desk) -> None:
    app = desk.fetched(WITH_FILES, {"web": image()}, files={"conf/a": b"1"})
    desk.apps().start(app)

    desk.apps().stop_all_but([])
    assert [] == desk.engine.containers()
    assert (desk.projects / "web/conf/a").exists()
    assert () == desk.apps().installed()

    desk.apps().prune([])
    assert [] == list(desk.projects.iterdir())
    assert [] == desk.engine.images()


def test_containers_of_others_are_left_alone(desk: Desk) -> None:
    app = desk.fetched(PLAIN, {"web": image()})
    desk.apps().start(app)
    desk.engine.run("run", "-d", "--name", "mine", "--network", "none", *desk.engine.images()[:1])

    desk.apps().stop_all_but([])
    desk.apps().prune([])

    assert ["mine"] == desk.engine.containers(running=True)
    assert 1 == len(desk.engine.images())


def test_switched_off_pruning_leaves_images_but_not_the_store(desk: Desk) -> None:
    app = desk.fetched(PLAIN, {"web": image()})
    desk.apps().start(app)

    apps = desk.apps(prune_images=False)
    apps.stop_all_but([])
    apps.prune([])

    assert 1 == len(desk.engine.images())
    assert (app,) == apps.missing([app])


def test_an_app_that_another_program_unpacked_is_recognised(desk: Desk) -> None:
    """Hybrid mode: aktualizr-lite keeps no record of ours."""
    app = desk.fetched(PLAIN, {"web": image()})
    desk.apps().start(app)
    shutil.rmtree(desk.store / ".usb-update")

    assert (app,) == desk.apps().installed()
    assert desk.apps().running([app])


def test_a_half_unpacked_app_does_not_count_as_installed(desk: Desk) -> None:
    app = desk.fetched(PLAIN, {"web": image()})
    desk.apps().start(app)
    record = desk.store / ".usb-update/web.app.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"whole": False}))

    assert () == desk.apps().installed()

    desk.apps().start(app)
    assert desk.apps().running([app])


# --- check -----------------------------------------------------------------------------


def test_a_check_sees_the_files_of_the_archive(desk: Desk) -> None:
    app = desk.fetched(PLAIN + "    env_file: [a.env]\n", {"web": image()}, files={"a.env": b"A=1"})

    desk.apps().check(app)

    assert [] == list((desk.store / "ingest").iterdir())


@pytest.mark.parametrize(
    ("compose", "complaint"),
    [
        (PLAIN + "    env_file: [absent.env]\n", "absent.env"),
        (PLAIN + "    unheard_of: 1\n", "unheard_of"),
        (PLAIN + "    depends_on: [absent]\n", "absent"),
        (PLAIN + '    volumes: ["${NEEDED:?not set}:/a"]\n', "NEEDED"),
    ],
)
def test_what_compose_refuses_is_invalid(desk: Desk, compose: str, complaint: str) -> None:
    app = desk.fetched(compose, {"web": image()})

    with pytest.raises(ComposeInvalidError, match=complaint):
        desk.apps().check(app)


@pytest.mark.parametrize(
    "more",
    [
        {"docker-compose.override.yml": b"services: {main: {image: busybox}}"},
        {"docker-compose.override.yml": b"services: {x: {image: 'a/b@sha256:%s'}}" % (b"0" * 64)},
    ],
)
def test_images_that_come_in_by_another_file_are_invalid(
    desk: Desk, more: dict[str, bytes]
) -> None:
    app = desk.fetched(PLAIN, {"web": image()}, files=more)

    with pytest.raises(ComposeInvalidError):
        desk.apps().check(app)


def test_an_env_file_does_not_choose_the_engine_or_the_project(desk: Desk) -> None:
    env = b"DOCKER_HOST=unix:///nowhere\nCOMPOSE_PROJECT_NAME=other\nCOMPOSE_FILE=absent.yml\n"
    app = desk.fetched(PLAIN, {"web": image()}, members=[regular(".env", env)])

    desk.apps().check(app)
    desk.apps().start(app)

    assert ["web-main-1"] == desk.engine.containers(running=True)


def test_a_missing_compose_program_is_no_fault_of_the_app(desk: Desk) -> None:
    app = desk.fetched(PLAIN, {"web": image()})
    apps = ComposeApps(
        desk.store, desk.projects, compose_bin=Path("/nowhere/docker"), docker_host=desk.engine.host
    )

    with pytest.raises(AppError, match="/nowhere/docker compose") as caught:
        apps.check(app)

    assert "docker_compose_bin" in caught.value.hint


def test_a_missing_engine_is_told(desk: Desk) -> None:
    app = desk.fetched(PLAIN, {"web": image()})
    host = f"unix://{desk.root}/none"
    apps = ComposeApps(desk.store, desk.projects, docker_host=host, engine_wait_s=0.1)

    assert not apps.running([app])
    with pytest.raises(AppStartError, match="does not answer"):
        apps.start(app)


def test_files_that_cannot_be_written_are_a_failed_start(desk: Desk) -> None:
    """A directory with data of the App's own where the archive has a file."""
    app = desk.fetched(PLAIN, {"web": image()}, files={"a": b"1"})
    (desk.projects / "web/a/data").mkdir(parents=True)

    with pytest.raises(AppStartError, match="cannot be written"):
        desk.apps().start(app)

    assert (desk.projects / "web/a/data").exists()


# --- memory ----------------------------------------------------------------------------


PEAK = """
import sys
from pathlib import Path
from agent.adapters.apps import ComposeApps
from agent.core.target import AppRef
root, compose, host, name, uri = sys.argv[1:]
app = AppRef(name, uri)
root = Path(root)
apps = ComposeApps(root / "store", root / "projects", compose_bin=Path(compose),
                   docker_host=host, engine_root=root, watermark=95)
apps.fetch(root / "bundle", app, lambda *_: None)
apps.check(app)
apps.start(app)
apps.prune([app])
lines = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_image(desk: Desk) -> None:
    layer = tar_of({"big": os.urandom(160 * 1024 * 1024)})
    app = make_app(desk.bundle, "web", PLAIN, {"web": make_image([busybox_layer(), layer])})
    docker = shutil.which("docker") or "docker"

    done = subprocess.run(
        [sys.executable, "-c", PEAK, desk.root, docker, desk.engine.host, app.name, app.uri],
        check=True,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )

    peak_kib = int(done.stdout.split()[-1])
    assert peak_kib < 80 * 1024
