"""Compose projects: their directories, what is recorded of them, and ``docker compose``.

A project directory holds what the App's archive brought and what the App made itself,
nothing of ours: the record of what was installed and the file that tells compose the
engine's name of each image lie in the store, out of the containers' reach.

Host commands used: docker compose (version 2).
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.adapters import shell
from agent.adapters.apps import archive
from agent.adapters.apps.manifest import COMPOSE_LIMIT_BYTES, ImageRef, pinned
from agent.adapters.files import (
    NotRegularError,
    TooLargeError,
    read_bounded,
    remove_durably,
    write_atomic,
)
from agent.core.errors import AppError, AppStartError, ComposeInvalidError
from agent.core.target import APP_NAME, APP_URI, AppRef
from agent.log import get_logger

log = get_logger()

UP_TIMEOUT_S = 900.0  # aktualizr-lite's deadline for the same command
DOWN_TIMEOUT_S = 900.0
CONFIG_TIMEOUT_S = 120.0
RECORD_LIMIT_BYTES = 16 * 1024 * 1024  # names of 50,000 files
OFFLINE = {  # an ``include:`` names files of the App, never an address
    "COMPOSE_EXPERIMENTAL_GIT_REMOTE": "false",
    "COMPOSE_EXPERIMENTAL_OCI_REMOTE": "false",
}
PROGRESS = re.compile(r"(Container|Image|Network|Volume) \S+ +[A-Z][a-z]+$")
OVERRIDES = ("docker-compose.override.yml", "docker-compose.override.yaml")


@dataclass(frozen=True, slots=True)
class Record:
    """What was installed in a project directory.

    Attributes:
        app: the version.
        whole: whether its start was carried out to the end.
        files: what its archive brought; while not whole, the one before as well.
    """

    app: AppRef
    whole: bool
    files: tuple[str, ...]


class Records:
    """Records of projects and loaded images, in ``<store>/.usb-update``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, name: str) -> Record | None:
        """Return what is recorded of an App."""
        table = self._table(self._path(name))
        uri, files = table.get("uri"), table.get("files")
        if not isinstance(uri, str) or not APP_URI.fullmatch(uri) or not isinstance(files, list):
            return None
        return Record(AppRef(name, uri), table.get("whole") is True, tuple(map(str, files)))

    def write(self, record: Record) -> None:
        """Make a record durable."""
        table = {"uri": record.app.uri, "whole": record.whole, "files": list(record.files)}
        self._write(self._path(record.app.name), table)

    def drop(self, name: str) -> None:
        """Remove what is kept about an App. Idempotent."""
        remove_durably(self._path(name))
        remove_durably(self.overrides(name))

    def overrides(self, name: str) -> Path:
        """Where the compose file with the engine's names of images lies."""
        return self._root / f"{name}.images.json"

    def write_overrides(self, name: str, references: Mapping[str, str]) -> Path:
        """Write, as a compose file, what each service's image is called in the engine."""
        services = {
            service: {"image": reference, "pull_policy": "never"}
            for service, reference in sorted(references.items())
        }
        self._write(self.overrides(name), {"services": services})
        return self.overrides(name)

    def names(self) -> tuple[str, ...]:
        """Return the Apps something is recorded of."""
        found = (path.name.removesuffix(".app.json") for path in self._root.glob("*.app.json"))
        return tuple(sorted(name for name in found if APP_NAME.fullmatch(name)))

    def loaded(self) -> frozenset[str]:
        """Return the tags of the images this agent loaded."""
        tags = self._table(self._root / "images.json").get("tags")
        return frozenset(map(str, tags)) if isinstance(tags, list) else frozenset()

    def write_loaded(self, tags: frozenset[str]) -> None:
        """Remember which images this agent loaded; unchanged ones are not written again."""
        if tags != self.loaded():
            self._write(self._root / "images.json", {"tags": sorted(tags)})

    def _path(self, name: str) -> Path:
        return self._root / f"{name}.app.json"

    def _table(self, path: Path) -> dict[str, Any]:
        try:
            table = json.loads(read_bounded(path, limit=RECORD_LIMIT_BYTES))
        except (OSError, NotRegularError, TooLargeError, ValueError, RecursionError):
            return {}
        return table if isinstance(table, dict) else {}

    def _write(self, path: Path, table: Mapping[str, Any]) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(table).encode(), mode=0o644)


class Compose:
    """``docker compose``, or a program of that kind.

    Args:
        program: ``[pacman] docker_compose_bin``; one named ``docker`` gets ``compose``.
        host: DOCKER_HOST for it. Always given, so that no ``.env`` of an App sets another.
    """

    def __init__(self, program: Path, host: str) -> None:
        self._argv = [str(program)] + (["compose"] if program.name == "docker" else [])
        self._env = {"DOCKER_HOST": host, **OFFLINE}

    def check(self, directory: Path, app: str, allowed: frozenset[str]) -> None:
        """Have compose read a project, and see that it only names images we have.

        Args:
            directory: with the App's files.
            app: its name.
            allowed: digests of the images that were fetched.

        Raises:
            ComposeInvalidError: compose refuses it, or a service's image is another.
            AppError: compose is not there.
        """
        argv = ["--profile", "*", "config", "--format", "json"]
        try:
            resolved = self._run(directory, app, [], argv, CONFIG_TIMEOUT_S)
        except shell.CommandError as e:
            raise ComposeInvalidError(
                f"docker compose refuses App {app!r}: {e.stderr or e}",
                hint="publish the App again; 'docker compose config' shows the same complaint",
            ) from e
        for service, image in _resolved_images(resolved.stdout, app).items():
            if image.digest not in allowed:
                raise ComposeInvalidError(
                    f"service {service!r} of App {app!r} uses image '{image.reference}', "
                    "which its docker-compose.yml does not name"
                )

    def up(self, directory: Path, app: str, overrides: Path, *, recreate: bool) -> None:
        """Create and start the project's containers, removing those of former services.

        Raises:
            AppStartError: compose failed; containers may have been made.
            AppError: compose is not there.
        """
        argv = ["up", "--detach", "--remove-orphans", "--no-build", "--pull", "never"]
        argv += ["--force-recreate"] if recreate else []
        try:
            self._run(directory, app, [overrides], argv, UP_TIMEOUT_S)
        except shell.CommandError as e:
            raise AppStartError(f"App {app!r} does not start: {_reason(e)}") from e

    def down(self, app: str) -> None:
        """Stop and remove a project's containers and networks; its volumes stay.

        Works by the containers' labels, so that it needs none of the project's files.

        Raises:
            AppError: compose failed or is not there.
        """
        try:
            # In "/", since compose looks for a file of its own from here upwards.
            self._call(["-p", app, "down", "--remove-orphans"], Path("/"), DOWN_TIMEOUT_S)
        except shell.CommandError as e:
            raise AppError(f"App {app!r} cannot be stopped: {e.stderr or e}") from e

    def _run(
        self, directory: Path, app: str, more: Sequence[Path], argv: Sequence[str], timeout_s: float
    ) -> shell.Finished:
        own = [archive.COMPOSE_NAME, *(n for n in OVERRIDES if (directory / n).is_file())]
        files = [*(directory / name for name in own), *more]
        named = [word for file in files for word in ("--file", str(file))]
        return self._call(
            ["-p", app, "--project-directory", str(directory), *named, *argv], directory, timeout_s
        )

    def _call(self, argv: Sequence[str], cwd: Path, timeout_s: float) -> shell.Finished:
        try:
            return shell.run([*self._argv, *argv], timeout_s=timeout_s, cwd=cwd, env=self._env)
        except shell.NotInstalledError as e:
            raise AppError(
                f"'{' '.join(self._argv)}' cannot be run: {e.stderr}",
                hint="install docker compose version 2, or set [pacman] docker_compose_bin",
            ) from e


def _reason(error: shell.CommandError) -> str:
    """Return compose's complaint without its progress lines, in one line."""
    lines = [line.strip() for line in error.stderr.splitlines()]
    told = [line for line in lines if line and not PROGRESS.match(line)]
    return "; ".join(told) or str(error)


def _resolved_images(data: bytes, app: str) -> dict[str, ImageRef]:
    """Read the images from compose's own view of a project, includes and overrides in."""
    try:
        services = json.loads(data)["services"]
        images = {str(name): entry.get("image") for name, entry in services.items()}
    except (ValueError, KeyError, AttributeError, RecursionError) as e:
        raise ComposeInvalidError(f"docker compose lists no services for App {app!r}") from e
    return {name: pinned(image, f"service {name[:80]!r} of App {app!r}")
            for name, image in images.items()}  # fmt: skip


class Projects:
    """``[pacman] compose_apps_root``: a directory per App, named after it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def directory(self, name: str) -> Path:
        """Return the directory of an App."""
        return self.root / name

    def names(self) -> tuple[str, ...]:
        """Return the Apps that have a directory."""
        with suppress(OSError):
            entries = [p.name for p in self.root.iterdir() if p.is_dir() and not p.is_symlink()]
            return tuple(sorted(name for name in entries if APP_NAME.fullmatch(name)))
        return ()

    def compose_bytes(self, name: str) -> bytes:
        """Return the compose file an App was unpacked with; empty when there is none."""
        try:
            path = self.directory(name) / archive.COMPOSE_NAME
            return read_bounded(path, limit=COMPOSE_LIMIT_BYTES)
        except (OSError, NotRegularError, TooLargeError):
            return b""

    def remove(self, name: str) -> None:
        """Remove an App's directory, what the App kept in it included."""
        shutil.rmtree(self.directory(name), ignore_errors=True)
