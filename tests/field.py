"""A factory and its devices in the field, driven by the commands a person types.

`Field` makes bundles with the real authoring code and devices with the real ``ostree``;
`FieldDevice` types ``aklite-offline`` at one of them, in this process or in one of its own,
and can reboot it, boot it back, and tell whether anything on it has changed.
"""

import contextlib
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from agent.faces.cli import aklite_offline, usb_update
from tests import ostree_device
from tests.authoring_desk import Workshop, workshop
from tests.docker_engine import compose_env
from tests.images import busybox_image
from tests.ostree_device import Device, ostree

ROOT = Path(__file__).parents[1]
HARDWARE_ID = "board"
TAG = "main"
IMAGE = "example.com/factory/web:1"
PROCESS_TIMEOUT_S = 60.0

ENTRY = "import sys; from agent.faces.cli import aklite_offline; sys.exit(aklite_offline())"
COMPOSE = """\
services:
  web:
    image: {image}
    command: {command}
    network_mode: none
    stop_grace_period: 0s
"""
SLEEPS = ("/bin/sleep", "3600")
CANNOT_START = ("/there/is/no/such/program",)


@dataclass(frozen=True)
class Answer:
    """What a command said.

    Attributes:
        code: its exit status.
    """

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        told: dict[str, Any] = json.loads(self.stdout)
        return told


@dataclass
class FieldDevice:
    """A device below ``directory``, and what people do to it."""

    directory: Path
    device: Device
    settings: dict[str, dict[str, object]]

    @property
    def config(self) -> Path:
        return self.directory / "device.toml"

    @property
    def storage(self) -> Path:
        return self.directory / "var-sota"

    @property
    def database(self) -> Path:
        return self.storage / "sql.db"

    @property
    def session(self) -> Path:
        """What lies on a tmpfs: gone after a reboot."""
        return self.directory / "session"

    @property
    def lock(self) -> Path:
        return self.directory / "aklite.lock"

    def configure(self, section: str, **values: object) -> None:
        """Change keys of the configuration."""
        self.settings.setdefault(section, {}).update(values)
        self.config.write_text(toml(self.settings), encoding="utf-8")

    def offline(self, command: str, *words: str | Path) -> Answer:
        """Type ``aklite-offline`` in this process."""
        return typed(aklite_offline, command, "-c", self.config, *words)

    def usb_update(self, command: str, *words: str | Path) -> Answer:
        """Type ``usb-update`` in this process."""
        return typed(usb_update, command, "-c", self.config, *words)

    def argv(self, command: str, *words: str | Path) -> list[str]:
        """Return the command line of ``aklite-offline`` as a process of its own."""
        return [sys.executable, "-c", ENTRY, command, "-c", str(self.config), *map(str, words)]

    def process(self, command: str, *words: str | Path) -> Answer:
        """Type ``aklite-offline`` in a process of its own."""
        return finished(self.argv(command, *words))

    def install(self, bundle: Path, *words: str) -> Answer:
        return self.offline("install", "-s", bundle, *words)

    def check(self, bundle: Path, *words: str) -> Answer:
        return self.offline("check", "-s", bundle, *words)

    def run(self) -> Answer:
        return self.offline("run")

    def current(self) -> dict[str, Any]:
        return self.offline("current", "--json").json

    def reboot(self) -> None:
        """Do what a reboot does here: what lies on a tmpfs is gone."""
        for mark in self.session.iterdir():
            mark.unlink()

    def boot_rollback(self) -> None:
        """Do what a boot loader does when the new deployment does not come up."""
        ostree("admin", "undeploy", "--sysroot", self.device.sysroot, "0")
        self.reboot()

    def boots_another(self, commit: str) -> None:
        """Boot a deployment that somebody else made."""
        device = self.device
        ostree("pull-local", "--repo", device.repo, device.origin, commit)
        ostree("admin", "deploy", "--sysroot", device.sysroot, "--os", device.os, commit)
        self.reboot()

    def update(self, bundle: Path) -> None:
        """Install a bundle, reboot, and finish."""
        assert self.install(bundle).code == 100
        self.reboot()
        assert self.run().code == 0

    def state(self) -> dict[str, object]:
        """Return what must not change when a command refuses."""
        ledger = self.storage / "usb-update"
        return {
            "deployed": self.device.deployed(),
            "rows": rows(self.database),
            "promise": (ledger / "pending").exists(),
            "session": sorted(path.name for path in self.session.iterdir()),
        }

    def sql(self, statement: str) -> None:
        """Change the database, as another program would."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            connection.execute(statement)
            connection.commit()


@dataclass
class Field:
    """A factory below ``directory``; its devices all begin with the same rootfs.

    Attributes:
        origin: the device others are copies of.
        workshop: makes the bundles, at the time of now.
    """

    directory: Path
    origin: Device = field(init=False)
    workshop: Workshop = field(init=False)

    def __post_init__(self) -> None:
        self.origin = ostree_device.make_device(self.directory / "first")
        self.workshop = workshop(self.directory / "factory")
        self.workshop.now = datetime.now(UTC)

    def device(self, directory: Path, *, apps: bool = False) -> FieldDevice:
        """Put a new device below ``directory``, running version 1."""
        directory.mkdir(parents=True, exist_ok=True)
        # `cp` keeps hard links; OSTree's checkouts are made of them.
        subprocess.run(["cp", "-a", self.origin.sysroot, directory / "sysroot"], check=True)
        sysroot = directory / "sysroot"
        device = Device(sysroot, self.origin.os, self.origin.origin, self.origin.commits)
        return field_device(directory, device, self.workshop.keys / "roots", apps=apps)

    def bundle(
        self,
        version: int,
        *,
        commit: str = "",
        files: Mapping[str, bytes] | None = None,
        apps: Sequence[Path] = (),
        images: Sequence[Path] = (),
        **changes: object,
    ) -> Path:
        """Make a bundle of a new rootfs, or of ``commit``; return its directory."""
        asked: dict[str, object] = {
            "target": f"board-lmp-{version}",
            "destination": self.directory / f"bundle-{len(list(self.directory.iterdir()))}",
            "hardware_id": HARDWARE_ID,
            "tag": TAG,
            "ostree_repo": self.origin.origin,
            "ref": commit or self.origin.new_commit(files),
            "apps": tuple(apps),
            "images": tuple(f"{IMAGE}={image}" for image in images),
            **changes,
        }
        info = self.workshop.create(version, **asked)
        return info.path

    def app(
        self, name: str, command: Sequence[str] = SLEEPS, *, compose: str = COMPOSE, tail: str = ""
    ) -> Path:
        """Write an App's source directory."""
        base = self.directory / "app-sources"
        source = base / str(len(list(base.iterdir())) if base.exists() else 0) / name
        source.mkdir(parents=True)
        text = compose.format(image=IMAGE, command=json.dumps(list(command))) + tail
        (source / "docker-compose.yml").write_text(text, encoding="utf-8")
        return source

    def image(self) -> Path:
        """Return an archive with one small image that runs."""
        directory = self.directory / "images"
        directory.mkdir(exist_ok=True)
        return busybox_image(directory, IMAGE)

    def copy(self, bundle: Path, directory: Path) -> Path:
        """Copy a bundle, so that it may be damaged."""
        return Path(shutil.copytree(bundle, directory, symlinks=True))


def field_device(directory: Path, device: Device, roots: Path, *, apps: bool) -> FieldDevice:
    """Write the configuration of a device and return it."""
    storage = directory / "var-sota"
    storage.mkdir(mode=0o700)
    (directory / "session").mkdir(mode=0o700)
    made = FieldDevice(directory, device, {})
    made.configure("provision", primary_ecu_hardware_id=HARDWARE_ID)
    made.configure(
        "pacman",
        type="ostree+compose_apps" if apps else "ostree",
        booted="staged",
        os=device.os,
        sysroot=device.sysroot,
        tags=TAG,
        compose_apps_root=storage / "compose-apps",
        reset_apps_root=storage / "reset-apps",
        images_data_root=directory,
        storage_watermark=95,
        docker_compose_bin=shutil.which("docker") or "/usr/bin/docker",
    )
    made.configure("storage", path=storage, uptane_metadata_path=roots)
    made.configure("import", base_path=directory / "import")
    made.configure("bootloader", reboot_sentinel_dir=made.session)
    made.configure("logger", loglevel=3)
    made.configure("usb_update", lock=made.lock)
    return made


def no_engine() -> dict[str, str]:
    """Return the environment of a device with a compose program and no Docker engine."""
    return {"DOCKER_HOST": "unix:///nonexistent/docker.sock", **compose_env()}


def typed(main: Callable[[list[str]], int], *words: str | Path) -> Answer:
    """Call a command as its script does, and catch what it says."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in words])
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else 0
        finally:
            structlog.reset_defaults()
    return Answer(code, out.getvalue(), err.getvalue())


def finished(argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> Answer:
    """Run a program to its end, whatever its exit status."""
    done = subprocess.run(
        argv,
        cwd=ROOT,
        env=os.environ | dict(env or {}),
        capture_output=True,
        text=True,
        timeout=PROCESS_TIMEOUT_S,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def rows(database: Path) -> list[str]:
    """Return every row of a database as SQL; none when there is no database."""
    if not database.exists():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return list(connection.iterdump())


def toml(tables: Mapping[str, Mapping[str, object]]) -> str:
    """Write tables of plain values as TOML."""
    lines: list[str] = []
    for section, values in tables.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {_toml_value(value)}" for key, value in values.items()]
    return "\n".join([*lines, ""])


def _toml_value(value: object) -> str:
    # JSON's texts, numbers, booleans and lists are TOML's.
    return json.dumps(str(value) if isinstance(value, Path) else value)
