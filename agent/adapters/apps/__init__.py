"""Compose Apps on this device: fetched by digest, loaded, started, pruned.

`ComposeApps` fills `ports.Apps` from three rooms that do not know each other: the store
(blobs and versions), the engine (images and containers), the projects (unpacked files and
``docker compose``). Nothing here reaches for a network.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from agent.adapters.apps import archive
from agent.adapters.apps.images import Container, Engine, wait_healthy
from agent.adapters.apps.manifest import Image, Service, architecture
from agent.adapters.apps.project import Compose, Projects, Record, Records
from agent.adapters.apps.store import AppStore, Content
from agent.core.errors import AgentError, AppError, AppStartError, StoreError
from agent.core.target import AppRef
from agent.log import get_logger
from agent.ports import Progress

log = get_logger()

RECORDS = ".usb-update"
ENGINE_WAIT_S = 30.0  # docker.service is "started" some seconds before a slow device answers
USUAL_SOCKET = "unix:///var/run/docker.sock"


class ComposeApps:
    """The Apps of this device.

    Args:
        store: ``[pacman] reset_apps_root``.
        projects: ``[pacman] compose_apps_root``.
        compose_bin: ``[pacman] docker_compose_bin``.
        docker_host: DOCKER_HOST of the engine; empty: the caller's, else the usual socket.
        engine_root: ``[pacman] images_data_root``, for the space check.
        watermark: ``[pacman] storage_watermark``, percent of a volume that may be filled.
        prune_images: ``[pacman] docker_prune``: whether images we loaded are removed again.
        start_timeout_s: seconds to wait for health checks; 0: no wait.
        engine_wait_s: seconds to wait for the engine to answer before a start.
        platform: ``architecture[/variant]`` of this device; empty: this machine's.
    """

    def __init__(  # noqa: PLR0913  one per key of the configuration
        self,
        store: Path,
        projects: Path,
        *,
        compose_bin: Path = Path("/usr/bin/docker"),
        docker_host: str = "",
        engine_root: Path = Path("/var/lib/docker"),
        watermark: int = 80,
        prune_images: bool = True,
        start_timeout_s: float = 0,
        engine_wait_s: float = ENGINE_WAIT_S,
        platform: str = "",
    ) -> None:
        self._store = AppStore(store, architecture(platform), watermark, engine_root)
        self._projects = Projects(projects)
        self._records = Records(store / RECORDS)
        host = docker_host or os.environ.get("DOCKER_HOST", "") or USUAL_SOCKET
        self._compose = Compose(compose_bin, host)
        self._engine = Engine(host)
        self._prune_images = prune_images
        self._start_timeout_s = start_timeout_s
        self._engine_wait_s = engine_wait_s

    # --- asking ---

    def missing(self, apps: Sequence[AppRef]) -> tuple[AppRef, ...]:
        """See `ports.Apps.missing`."""
        return tuple(app for app in apps if not self._store.is_whole(app))

    def installed(self) -> tuple[AppRef, ...]:
        """See `ports.Apps.installed`; Apps that aktualizr-lite unpacked are recognised too."""
        found = (self._installed(name) for name in self._projects.names())
        return tuple(sorted(app for app in found if app))

    def running(self, apps: Sequence[AppRef]) -> bool:
        """See `ports.Apps.running`."""
        try:
            return self.installed() == tuple(sorted(apps)) and all(map(self._runs, apps))
        except AgentError as e:
            log.warning("apps.unknown", reason=e.message)
            return False

    def _installed(self, name: str) -> AppRef | None:
        """Tell which version is unpacked, by our record or else by its compose file."""
        record = self._records.read(name)
        if record and not record.whole:
            return None
        unpacked = self._projects.compose_bytes(name)
        known = {*self._store.versions(name), *((record.app,) if record else ())}
        versions = sorted(known) if unpacked else ()
        fitting = [app for app in versions if self._store.compose_bytes(app) == unpacked]
        if record and record.app in fitting:
            return record.app
        return fitting[0] if len(fitting) == 1 else None

    def _runs(self, app: AppRef) -> bool:
        """Whether each service has a container that is more than created."""
        containers = self._engine.containers(app.name)
        alive = {_key(c.service, c.config_hash) for c in containers if c.state != "created"}
        names = {c.service for c in containers if c.state != "created"}
        services = self._store.content(app).compose.services
        return all(_is_there(service, alive, names) for service in services if service.started)

    # --- copying ---

    def fetch(self, store: Path, app: AppRef, progress: Progress) -> None:
        """See `ports.Apps.fetch`."""
        self._store.fetch(store, app, progress)

    def check(self, app: AppRef) -> None:
        """See `ports.Apps.check`; the project is read from a scratch copy of its files."""
        content = self._store.content(app)
        with self._store.scratch() as directory:
            archive.unpack(self._archive(content), directory, app.name, durable=False)
            self._check(content, directory)

    def _check(self, content: Content, directory: Path) -> None:
        allowed = frozenset(image.ref.digest for image in content.images)
        self._compose.check(directory, content.app.name, allowed)

    # --- starting ---

    def start(self, app: AppRef) -> None:
        """See `ports.Apps.start`.

        Whatever prevents it is a failed start, a missing engine too: a new rootfs on which
        Docker does not come up is one to roll back from.
        """
        try:
            self._engine.await_answer(self._engine_wait_s)
            self._start(self._to_start(app))
        except AppStartError:
            raise
        except AgentError as e:
            raise AppStartError(f"App {app.name!r} does not start: {e.message}", hint=e.hint) from e

    def _start(self, content: Content) -> None:
        """Carry out a start.

        Images first, so that a failure there leaves the old version untouched; then the
        files; then compose. The record says "whole" only when all of it was done.
        """
        for image in content.images:
            self._load(image)
        files, recreate = self._unpack(content)
        self._up(content, recreate=recreate)
        self._demand_containers(content)
        self._records.write(Record(content.app, whole=True, files=files))

    def _to_start(self, app: AppRef) -> Content:
        try:
            return self._store.content(app)
        except StoreError as e:
            raise AppStartError(
                f"App {app.name!r} is not whole in the store: {e.message}",
                hint="install the bundle again",
            ) from e

    def _load(self, image: Image) -> None:
        """Load an image; when the engine refuses it, find out whether the store is damaged."""
        self._records.write_loaded(self._records.loaded() | {image.ref.short_tag})
        try:
            self._engine.load(image, self._store.blob)
        except AppStartError as e:
            damaged = self._store.drop_damaged(image)
            if not damaged:
                raise
            raise AppStartError(
                f"{e.message}; blob sha256:{damaged[0]} in the store was damaged and is removed",
                hint="install the bundle again",
            ) from e

    def _unpack(self, content: Content) -> tuple[tuple[str, ...], bool]:
        """Unpack the App's files.

        Returns:
            Their names, and whether containers must be made anew to see them: compose does
            so when a container's definition changed, not when a file that it mounts did.
        """
        app = content.app
        directory = self._projects.directory(app.name)
        directory.mkdir(parents=True, exist_ok=True)
        before = self._records.read(app.name)
        old = before.files if before else ()
        self._records.write(Record(app, whole=False, files=old))
        done = archive.unpack(self._archive(content), directory, app.name)
        archive.remove_files(directory, set(old) - set(done.names))
        self._records.write(Record(app, whole=False, files=done.names))
        unfinished = before is not None and not before.whole
        return done.names, unfinished or bool(done.changed - {archive.COMPOSE_NAME})

    def _archive(self, content: Content) -> Path:
        return self._store.blob(content.manifest.archive.digest)

    def _up(self, content: Content, *, recreate: bool) -> None:
        app = content.app.name
        directory = self._projects.directory(app)
        self._check(content, directory)
        overrides = self._records.write_overrides(app, self._references(content))
        self._compose.up(directory, app, overrides, recreate=recreate)

    def _references(self, content: Content) -> dict[str, str]:
        """Return, by service, what compose must call its image for the engine to find it."""
        images = {image.ref: self._engine.usable_reference(image) for image in content.images}
        lost = [ref.reference for ref, name in images.items() if not name]
        if lost:
            raise AppStartError(f"the engine does not find image '{lost[0]}' although it loaded it")
        return {service.name: images[service.image] for service in content.compose.services}

    def _demand_containers(self, content: Content) -> None:
        """Refuse a start after which a service has no container or is not healthy.

        Raises:
            AppStartError: names the service.
        """
        app = content.app.name
        containers = self._engine.containers(app)
        alive = {_key(c.service, c.config_hash) for c in containers}
        names = {c.service for c in containers}
        started = [service for service in content.compose.services if service.started]
        for service in started:
            if not _is_there(service, alive, names):
                raise AppStartError(f"service {service.name!r} of App {app!r} has no container")
        checked = {service.name for service in started if service.has_health_check}
        if self._start_timeout_s > 0 and checked:
            waited = [c for c in containers if c.service in checked]
            wait_healthy(self._engine, waited, app, self._start_timeout_s)

    # --- stopping and pruning ---

    def stop_all_but(self, keep: Sequence[AppRef]) -> None:
        """See `ports.Apps.stop_all_but`; files stay until `prune`, for a way back."""
        kept = {app.name for app in keep}
        for name in self._known():
            if name not in kept:
                self._stop(name)

    def _known(self) -> tuple[str, ...]:
        return tuple(sorted({*self._projects.names(), *self._records.names()}))

    def _stop(self, name: str) -> None:
        try:
            self._compose.down(name)
        except AppError as e:
            log.warning("app.kept", app=name, reason=e.message)
            return
        self._forget_whole(name)
        log.info("app.stopped", app=name)

    def _forget_whole(self, name: str) -> None:
        """Record that an App does not count as installed, whoever unpacked it."""
        record = self._records.read(name)
        if record is None and (app := self._installed(name)):
            record = Record(app, whole=True, files=())
        if record:
            self._records.write(Record(record.app, whole=False, files=record.files))

    def prune(self, keep: Sequence[AppRef]) -> None:
        """See `ports.Apps.prune`: directories, versions, blobs, then images we loaded.

        An App that is there but cannot be followed any more keeps everything else: nothing
        is removed on the strength of an App that cannot be read.
        """
        try:
            contents = [self._store.content(app) for app in keep if self._store.has_any(app)]
        except AgentError as e:
            log.warning("apps.not_pruned", reason=e.message)
            return
        kept = {app.name for app in keep}
        for name in self._known():
            if name not in kept:
                self._projects.remove(name)
                self._records.drop(name)
        self._store.prune(contents)
        if self._prune_images:
            self._drop_images(contents)
        log.info("apps.pruned", kept=sorted(kept))

    def _drop_images(self, keep: Sequence[Content]) -> None:
        needed = {image.ref.short_tag for content in keep for image in content.images}
        loaded = self._records.loaded()
        gone = {tag for tag in sorted(loaded - needed) if self._engine.remove(tag)}
        self._records.write_loaded(loaded - gone)


def _key(service: str, config_hash: str) -> tuple[str, str]:
    return service, config_hash


def _is_there(service: Service, alive: set[tuple[str, str]], names: set[str]) -> bool:
    """Whether a container is this service's: by its config hash too where the file has one."""
    if service.config_hash:
        return _key(service.name, service.config_hash) in alive
    return service.name in names


__all__ = ["ComposeApps", "Container"]
