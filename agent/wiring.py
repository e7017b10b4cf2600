"""Settings → a `Station` with every tool in its place. No decisions beyond that.

Faces come here for anything that touches the world. Adapters that need heavy libraries
import them when they are used, so opening a station stays cheap.
"""

import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

from agent.adapters import clock, devicecert, files, journal, tomlfiles
from agent.adapters.bootenv import boot_env
from agent.adapters.boots import SentinelBoots
from agent.adapters.callbacks import CurrentTargetFile, ProgramCallbacks
from agent.adapters.ledger import FileLedger
from agent.adapters.provisioned import provisioned_roots
from agent.adapters.sotadb import SotaDatabase, SotaTrust, SotaVersions
from agent.core.bundletype import BundleType
from agent.core.config import Configuration, Settings, Storage
from agent.core.errors import LockedError, StateError, UsageError
from agent.core.target import Target
from agent.log import get_logger
from agent.ports import Apps, Medium, Progress
from agent.services.station import DevicePolicy, Station, no_progress

__all__ = [
    "bundle_medium",
    "bundles_in",
    "configuration",
    "make_station",
    "opened_station",
    "resume_services",
    "service_findings",
    "service_installation",
    "stopped_services",
]

if TYPE_CHECKING:
    from agent.adapters.installation import Installation
    from agent.adapters.ostree import OstreeSysroot
    from agent.adapters.systemd import SystemdServices
    from agent.core.finding import Finding
    from agent.services.desk import Desk, FactoryKeys, Warn
    from agent.services.factory import FactoryDesk
    from agent.services.fetch import FactorySource
    from agent.services.pack import PackFiles

log = get_logger()

DOCKER_PROGRAMS = ("dockerd", "docker")
PROGRAM_DIRECTORIES = ("bin", "sbin")  # dockerd: Yocto has it in the first, Debian in the second
CORRELATION_ID_LIMIT = 63  # characters, the reference's bound
IMPORTED_VERSIONS = "installed_versions"
DESK_LOG_LEVEL = 3  # warnings: a person reads the answer, not the log


def configuration(places: Sequence[Path] = (), root: Path = Path("/")) -> Configuration:
    """Read the configuration from ``places``, or from the default ones of the system at ``root``.

    Raises:
        ConfigError: a file cannot be read, or a value does not fit its key.
    """
    return tomlfiles.load(places, root)


def bundle_medium(path: Path, storage: Storage = Storage()) -> Medium:  # noqa: B008  frozen
    """Return the bundle in a directory or a pack.

    Args:
        path: the directory or file.
        storage: of the device, where a pack may have to be copied to.

    Raises:
        UsageError: there is no such directory or file.
    """
    kind = files.kind(path)
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        raise UsageError(
            f"'{path}' is neither a directory nor a file",
            hint="give the bundle's directory or its .usbu file",
        )
    return _medium(path.resolve(), storage, is_pack=kind == stat.S_IFREG)


def found_medium(path: Path, storage: Storage) -> Medium:
    """Return a bundle that was found on a stick a moment ago.

    What has gone since, or cannot be read, is told when it is read.
    """
    return _medium(path, storage, is_pack=files.kind(path) == stat.S_IFREG)


def _medium(path: Path, storage: Storage, *, is_pack: bool) -> Medium:
    # Only who reads a bundle pays for these; `run` reads none.
    from agent.adapters import packs  # noqa: PLC0415
    from agent.adapters.medium import DirectoryMedium  # noqa: PLC0415
    from agent.adapters.packs.medium import PackMedium  # noqa: PLC0415

    return (
        PackMedium(path, packs.places(Path(storage.ledger))) if is_pack else DirectoryMedium(path)
    )


def bundles_in(path: Path) -> tuple[Path, ...]:
    """Return every bundle on a medium; a pack is one itself.

    Raises:
        UsageError: there is no such directory.
    """
    kind = files.kind(path)
    if kind == stat.S_IFREG:
        return (path.resolve(),)
    if kind != stat.S_IFDIR:
        raise UsageError(f"'{path}' is not a directory", hint="give a mounted stick")
    from agent.adapters.medium import find_bundles  # noqa: PLC0415  `run` reads no bundle

    return find_bundles(path.resolve())


@contextmanager
def opened_station(
    found: Configuration,
    *,
    progress: Progress = no_progress,
    log_level: int | None = None,
    exclusive: bool = True,
    recorder: journal.Recorder | None = None,
) -> Iterator[Station]:
    """Open the device these settings describe, for one command.

    Args:
        found: the configuration.
        progress: told how far copying has come.
        log_level: 0 trace … 5 fatal; None takes ``[logger] loglevel``, for a mere look warnings.
        exclusive: whether to hold the lock every update agent takes; without it, it is a mere
            look, as `looking_station` gives it.
        recorder: keeps the events, for a record.

    Raises:
        LockedError: another agent is at work.
        StateError: the device's state cannot be opened.
    """
    settings = found.settings
    usual = settings.logger.loglevel if exclusive else DESK_LOG_LEVEL
    journal.set_up(usual if log_level is None else log_level, recorder=recorder)
    for warning in found.warnings:
        log.warning("config.warned", message=warning)
    if exclusive:
        with locked_station(settings, progress) as station:
            yield station
    else:
        with looking_station(settings) as station:
            yield station


@contextmanager
def locked_station(settings: Settings, progress: Progress = no_progress) -> Iterator[Station]:
    """Open the device for one attempt, with the lock every update agent takes.

    Raises:
        LockedError: another agent is at work.
        StateError: the device's state cannot be opened.
    """
    lock = settings.usb_update.lock
    with ExitStack() as stack:
        try:
            stack.enter_context(files.locked(Path(lock)))
        except BlockingIOError as e:
            raise LockedError(
                f"another update agent holds '{lock}'",
                hint="wait for it, or stop aktualizr-lite.service, then try again",
            ) from e
        except OSError as e:
            raise StateError(f"'{lock}' cannot be locked: {e.strerror}", hint="run as root") from e
        yield make_station(settings, progress)


@contextmanager
def looking_station(settings: Settings) -> Iterator[Station]:
    """Open the device on a copy of its database: who only looks leaves no trace.

    Raises:
        StateError: the device's state cannot be read.
    """
    with ExitStack() as stack:
        try:
            shadow = stack.enter_context(tempfile.TemporaryDirectory(prefix="usb-update-look-"))
        except OSError as e:
            raise StateError(f"no temporary directory can be made: {e}", hint="free space") from e
        copy = Path(shadow, "sql.db")
        SotaDatabase(Path(settings.storage.database)).copy_to(copy)
        yield _station(settings, no_progress, SotaDatabase(copy), lambda _: None)


def make_station(settings: Settings, progress: Progress = no_progress) -> Station:
    """Put every adapter in its place.

    Raises:
        StateError: the device's state cannot be opened.
    """
    current_target = CurrentTargetFile(Path(settings.storage.path, "current-target"))
    return _station(settings, progress, _database(settings), current_target.write)


def _station(
    settings: Settings,
    progress: Progress,
    database: SotaDatabase,
    on_current: Callable[[Target], None],
) -> Station:
    provision = settings.provision
    hardware_id = provision.primary_ecu_hardware_id or os.uname().nodename
    database.register(hardware_id, provision.primary_ecu_serial)
    ledger = FileLedger(Path(settings.storage.ledger))
    known_type = _device_type(settings, database)
    boots = _boots(settings)
    sysroot = cast("OstreeSysroot", _WhenUsed(lambda: _sysroot(settings, boots)))
    storage = Path(settings.storage.path)
    return Station(
        trust=SotaTrust(database, lambda: _roots(settings, known_type or ledger.bundle_type())),
        versions=_versions(settings, database, on_current),
        ledger=ledger,
        sysroot=sysroot,
        apps=cast("Apps", _WhenUsed(lambda: _apps(settings))),
        bootenv=boot_env(
            settings.bootloader,
            new_deployment=lambda: sysroot.staged_directory(),  # noqa: PLW0108  not asked yet
        ),
        boots=boots,
        clock=clock.SystemClock(),
        callbacks=ProgramCallbacks(_program(settings), storage / "current-target"),
        policy=_policy(settings, known_type),
        progress=progress,
        make_correlation_id=_correlation_id,
    )


def author_desk(progress: Progress = no_progress, warn: "Warn | None" = None) -> "Desk":
    """Open an author's desk: what `services.author` works with.

    Args:
        progress: told how far copying has come.
        warn: told what may go wrong; None tells nobody.
    """
    # Only who makes or examines bundles pays for these.
    from agent.adapters import authoring, gitsource, keyfiles  # noqa: PLC0415
    from agent.services.desk import Desk, no_warning  # noqa: PLC0415

    journal.set_up(DESK_LOG_LEVEL)
    return Desk(
        keys=factory_keys,
        read_archive=keyfiles.read_archive,
        bundle=authoring.bundle_files,
        commits=authoring.OstreeCommits,
        plan_apps=authoring.plan_apps,
        medium=bundle_medium,
        roots=provisioned_roots,
        now=clock.SystemClock().now,
        revision=gitsource.open_revision,
        progress=progress,
        warn=warn or no_warning,
    )


def factory_server(
    url: str, factory: str, token_file: Path
) -> "AbstractContextManager[FactorySource]":
    """Open a factory's server: what `services.fetch` takes bundles from.

    Args:
        url: of the server.
        factory: its name.
        token_file: holds the token.
    """
    # Only who fetches bundles pays for HTTP.
    from agent.adapters.authoring.factoryserver import (  # noqa: PLC0415
        ServerAddress,
        open_server,
    )

    return open_server(ServerAddress(url, factory, token_file))


def factory_keys(directory: Path) -> "FactoryKeys":
    """Open a factory's keys: of a factory with books, or of a directory with keys alone."""
    from agent.adapters import keyfiles  # noqa: PLC0415
    from agent.adapters.authoring import factorydir  # noqa: PLC0415

    books, archives = factorydir.FactoryDirectory(directory), keyfiles.KeysDirectory(directory)
    return factorydir.FactoryKeys(books, archives) if books.exists else archives


def factory_desk(progress: Progress = no_progress, warn: "Warn | None" = None) -> "FactoryDesk":
    """Open an author's desk with factories on it: what `services.factory` works with."""
    from agent.adapters import keyfiles  # noqa: PLC0415
    from agent.adapters.authoring import factorydir, storedapps  # noqa: PLC0415
    from agent.services.factory import FactoryDesk  # noqa: PLC0415

    return FactoryDesk(
        desk=author_desk(progress, warn),
        books=factorydir.FactoryDirectory,
        read_archives=keyfiles.read_archives,
        put_key=keyfiles.put_key,
        rename_archive=keyfiles.rename_archive,
        move_archives=keyfiles.move_archives,
        stored_apps=storedapps.stored_apps,
    )


def author_packs(progress: Progress = no_progress) -> "PackFiles":
    """Return an author's files of packs: what `services.pack` works with beside the desk."""
    from agent.adapters import authoring  # noqa: PLC0415  as above

    return authoring.PackDirectory(progress)


def wants_apps(settings: Settings) -> bool:
    """Whether the device runs Compose Apps: configured, else by whether Docker is there."""
    if settings.pacman.type:
        return settings.pacman.type == "ostree+compose_apps"
    return docker_is_there(Path("/usr"))


def docker_is_there(usr: Path) -> bool:
    """Whether the system below ``usr`` has Docker, engine and client."""
    return all(
        any((usr / directory / program).exists() for directory in PROGRAM_DIRECTORIES)
        for program in DOCKER_PROGRAMS
    )


def _database(settings: Settings) -> SotaDatabase:
    path = Path(settings.storage.database)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as e:
        raise StateError(
            f"'{path.parent}' cannot be made: {e.strerror}",
            hint="run as root, or set [storage] path",
        ) from e
    return SotaDatabase(path)


def _versions(
    settings: Settings, database: SotaDatabase, on_current: Callable[[Target], None]
) -> SotaVersions:
    versions = SotaVersions(database, on_current=on_current)
    path = Path(settings.import_.base_path, IMPORTED_VERSIONS)
    # A look works on a copy: the file stays for the command that keeps what it says.
    versions.import_installed(path, remove=database.path == Path(settings.storage.database))
    return versions


def _boots(settings: Settings) -> SentinelBoots:
    bootloader = settings.bootloader
    return SentinelBoots(
        Path(bootloader.reboot_sentinel_dir, bootloader.reboot_sentinel_name),
        Path(settings.storage.ledger, "awaited-boot"),
        this_machine=settings.pacman.booted,
    )


class _WhenUsed:
    """Makes a tool when it is first asked for something: an idle command pays for none."""

    def __init__(self, make: Callable[[], object]) -> None:
        self._make = make

    @cached_property
    def _tool(self) -> object:
        return self._make()

    def __getattr__(self, name: str) -> object:
        return getattr(self._tool, name)


def _sysroot(settings: Settings, boots: SentinelBoots) -> "OstreeSysroot":
    from agent.adapters.ostree import OstreeSysroot  # noqa: PLC0415  see `_WhenUsed`

    pacman = settings.pacman
    return OstreeSysroot(
        Path(pacman.sysroot),
        os=pacman.os,
        booted=pacman.booted,
        reserved_percent=pacman.sysroot_ostree_reserved_space_percentage,
        reboot_awaited=boots.awaited,
    )


def _apps(settings: Settings) -> Apps:
    from agent.adapters.apps import ComposeApps  # noqa: PLC0415  see `_WhenUsed`

    pacman = settings.pacman
    return ComposeApps(
        store=Path(pacman.reset_apps_root),
        projects=Path(pacman.compose_apps_root),
        compose_bin=Path(pacman.docker_compose_bin),
        engine_root=Path(pacman.images_data_root),
        watermark=pacman.storage_watermark,
        prune_images=pacman.docker_prune,
        start_timeout_s=settings.usb_update.app_start_timeout_s,
    )


def _policy(settings: Settings, device_type: BundleType | None) -> DevicePolicy:
    pacman, ours = settings.pacman, settings.usb_update
    return DevicePolicy(
        tags=pacman.tags or (),
        device_type=device_type,
        compose_apps=pacman.compose_apps,
        reset_apps=pacman.reset_apps or (),
        wants_apps=wants_apps(settings),
        require_bundle_metadata=ours.require_bundle_metadata,
        block_on_firmware=pacman.ostree_update_block,
        boot_firmware_exit=ours.run_boot_firmware_exit,
    )


def _device_type(settings: Settings, database: SotaDatabase) -> BundleType | None:
    if settings.usb_update.device_type is not None:
        return settings.usb_update.device_type
    paths = [Path(path) for path in settings.certificates]
    return devicecert.device_type(paths, database.client_certificate)


def _roots(settings: Settings, device_type: BundleType | None) -> tuple[tuple[int, bytes], ...]:
    return provisioned_roots(Path(settings.storage.provisioned_roots), device_type)


def _program(settings: Settings) -> Path | None:
    program = settings.pacman.callback_program
    return Path(program) if program else None


def _correlation_id(version: int) -> str:
    import uuid  # noqa: PLC0415  only who records an update

    return f"{version}-{uuid.uuid4()}"[:CORRELATION_ID_LIMIT]


# --- the service: imported only by its own command --------------------------------------


def service_installation(settings: Settings, root: Path = Path("/")) -> "Installation":
    """Return the service's files, as they belong into the system at ``root``."""
    from agent.adapters import installation  # noqa: PLC0415

    journal.set_up(DESK_LOG_LEVEL)
    # An image being built has the program where its package puts it.
    program = installation.this_program() if root == Path("/") else installation.PROGRAM
    return installation.Installation(root, settings.storage.path, program)


def service_findings(settings: Settings, root: Path = Path("/")) -> "tuple[Finding, ...]":
    """Examine the device for all that an update will need."""
    from agent.adapters import doctor  # noqa: PLC0415

    service = service_installation(settings, root)
    if root != Path("/"):
        return doctor.examine_image(settings, service.parts(), root, enabled=service.enabled())
    return doctor.examine(
        settings, service.parts(), enabled=service.enabled(), wants_apps=wants_apps(settings)
    )


def resume_services(settings: Settings) -> None:
    """Start again what an attempt stopped, when it could not do so itself."""
    journal.set_up(settings.logger.loglevel)
    stopped_services(settings).restore()


def stopped_services(settings: Settings) -> "SystemdServices":
    """Return the services that stand still during an attempt."""
    from agent.adapters.systemd import SystemdServices  # noqa: PLC0415

    return SystemdServices(settings.usb_update.stop_services, Path(settings.storage.ledger))
