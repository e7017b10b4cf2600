"""Examine a device: is everything there that an update will need, and plausible.

In: the settings, and the service's files as they should be. Out: one `Finding` per thing
looked at. Nothing is changed, nothing is made, nothing needs the network.

Host commands used: systemctl, docker (only asked for versions and states).
"""

import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from agent.adapters import shell
from agent.core.config import Settings
from agent.core.finding import Finding, Level

QUERY_TIMEOUT_S = 20.0
NEEDED_BYTES = 16 * 1024 * 1024  # the database, the promise and the records, many times over
COMFORTABLE_BYTES = 256 * 1024 * 1024
YEARS_AHEAD = 20  # a device lives no longer
CLOCK_EPOCH = Path("/usr/lib/clock-epoch")  # systemd-timesyncd(8): when the image was made
PROGRAMS = ("mount", "umount", "udevadm", "ostree")
IMAGE_PATH = ("usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin", "bin", "sbin")
BOOT_PROGRAMS = {
    "uboot_generic": ("fw_printenv", "fw_setenv"),
    "uboot_masked": ("fw_printenv", "fw_setenv"),
    "fiovb": ("fiovb_printenv", "fiovb_setenv"),
    "fioefi": ("fioefi_printenv", "fioefi_setenv"),
    "grub": ("grub-editenv",),
}
WATCH_UNIT = "usb-update.service"
SYSTEMD_RUNS = Path("/run/systemd/system")
FILE_SYSTEMS = Path("/proc/filesystems")
MOUNTS = Path("/proc/mounts")
PACK_FILE_SYSTEM = "squashfs"
LEDS = Path("/sys/class/leds")


class ServiceFile(Protocol):
    """A file of the service."""

    @property
    def place(self) -> Path:
        """Where it belongs."""

    @property
    def present(self) -> bool:
        """Whether something lies there."""

    @property
    def current(self) -> bool:
        """Whether it is the one this program ships."""


def examine(
    settings: Settings,
    parts: Sequence[ServiceFile],
    *,
    enabled: bool,
    wants_apps: bool,
    now: datetime | None = None,
) -> tuple[Finding, ...]:
    """Look at everything.

    Args:
        settings: of the device.
        parts: files of the service.
        enabled: whether the service starts at boot.
        wants_apps: whether the device runs Compose Apps.
        now: UTC; None for the system's clock.
    """
    return (
        _permissions(),
        *_programs(settings),
        *(_docker(settings) if wants_apps else ()),
        _clock(now or datetime.now(UTC)),
        *_provisioning(settings),
        *_storage(settings),
        _database(Path(settings.storage.database)),
        _sentinel(Path(settings.bootloader.reboot_sentinel_dir)),
        *(_file_system(name) for name in settings.usb_update.filesystems),
        _packs(),
        *_policy(settings),
        *_equipment(settings),
        *(_part(part) for part in parts),
        _service(enabled=enabled),
    )


def examine_image(
    settings: Settings, parts: Sequence[ServiceFile], root: Path, *, enabled: bool
) -> tuple[Finding, ...]:
    """Look at what an image that does not run can tell; the rest is asked on the device.

    Args:
        settings: of the image.
        parts: files of the service.
        root: directory of the image.
        enabled: whether the service starts at boot.
    """
    path = os.pathsep.join(str(root / directory) for directory in IMAGE_PATH)
    return (
        *_programs(settings, path),
        *_provisioning(settings, root),
        *_policy(settings),
        *(_part(part) for part in parts),
        _starts(enabled=enabled),
    )


def _ok(topic: str, message: str) -> Finding:
    return Finding(Level.OK, topic, message)


def _warn(topic: str, message: str, hint: str) -> Finding:
    return Finding(Level.WARN, topic, message, hint)


def _fail(topic: str, message: str, hint: str) -> Finding:
    return Finding(Level.FAIL, topic, message, hint)


def _permissions() -> Finding:
    if os.geteuid() == 0:
        return _ok("permissions", "runs as root")
    return _fail("permissions", f"runs as user {os.geteuid()}, expected root", "use sudo")


def _programs(settings: Settings, path: str | None = None) -> Iterator[Finding]:
    for name in (*PROGRAMS, *BOOT_PROGRAMS.get(settings.bootloader.rollback_mode, ())):
        found = shutil.which(name, path=path)
        hint = f"add the package that brings '{name}' to the image"
        yield _ok("program", found) if found else _fail("program", f"no '{name}' on PATH", hint)
    mode = settings.bootloader.rollback_mode
    if mode == "none":
        hint = "set [bootloader] rollback_mode, so that a rootfs that does not boot is left again"
        yield _warn("boot loader", "rollback_mode is 'none'", hint)


def _docker(settings: Settings) -> Iterator[Finding]:
    program = settings.pacman.docker_compose_bin
    plugin = ["compose"] if Path(program).name == "docker" else []
    hint = "install Docker Compose 2, or set [pacman] docker_compose_bin"
    yield _answers("compose", [program, *plugin, "version"], hint)
    hint = "start docker.service; see 'systemctl status docker'"
    yield _answers("docker", ["docker", "version", "--format", "{{.Server.Version}}"], hint)


def _answers(topic: str, argv: list[str], hint: str) -> Finding:
    try:
        said = shell.run(argv, timeout_s=QUERY_TIMEOUT_S).text.strip()
    except shell.CommandError as e:
        return _fail(topic, str(e), hint)
    return _ok(topic, said.splitlines()[0] if said else "answers")


def _clock(now: datetime) -> Finding:
    built = _built_utc()
    hint = "set the clock, or give the device one that runs on a battery"
    said = f"{now:%Y-%m-%d %H:%M} UTC"
    if now < built:
        return _warn("clock", f"{said} is before {built:%Y-%m-%d}, when this image was made", hint)
    if now.year > built.year + YEARS_AHEAD:
        return _warn("clock", f"{said} is more than {YEARS_AHEAD} years after the image", hint)
    return _ok("clock", said)


def _built_utc() -> datetime:
    """Return a time the clock cannot be before; OSTree sets every file of an image to 1970."""
    marks = [mark.stat().st_mtime for mark in (CLOCK_EPOCH, Path(__file__)) if mark.exists()]
    return datetime.fromtimestamp(max(marks), UTC)


def _provisioning(settings: Settings, root: Path = Path("/")) -> Iterator[Finding]:
    hardware_id = settings.provision.primary_ecu_hardware_id
    hint = "set [provision] primary_ecu_hardware_id to the Targets' hardware ID"
    yield (
        _ok("hardware ID", hardware_id)
        if hardware_id
        else _warn("hardware ID", "not set; the device's host name is it", hint)
    )
    directory = root / settings.storage.provisioned_roots.lstrip("/")
    roots = sorted(directory.glob("*/1.root.json"))
    hint = "put root documents there, or the first stick decides whom this device trusts"
    yield (
        _ok("trust", f"{len(roots)} root chains in '{directory}'")
        if roots
        else _warn("trust", f"no root document in '{directory}'", hint)
    )


def _storage(settings: Settings) -> Iterator[Finding]:
    for place in dict.fromkeys((settings.storage.path, settings.pacman.sysroot)):
        yield _space(Path(place))


def _space(path: Path) -> Finding:
    if not path.is_dir():
        return _fail("storage", f"there is no directory '{path}'", f"make it: mkdir -p '{path}'")
    stat = os.statvfs(path)
    free = stat.f_bavail * stat.f_frsize
    said = f"'{path}' has {free // 2**20} MiB free"
    if free < NEEDED_BYTES:
        return _fail("storage", said, "make room; nothing can be recorded")
    if free < COMFORTABLE_BYTES:
        return _warn("storage", said, "make room; most updates need more")
    if not os.access(path, os.W_OK):
        return _warn("storage", f"'{path}' is read-only now", "OSTree remounts its own sysroot")
    return _ok("storage", said)


def _database(path: Path) -> Finding:
    if not path.exists():
        return _ok("database", f"'{path}' is not there yet; the first attempt makes it")
    hint = "restore it from a backup, or move it away and provision the device again"
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)) as db:
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
            (schema,) = db.execute("SELECT version FROM version").fetchone()
    except (sqlite3.Error, TypeError) as e:
        return _fail("database", f"'{path}' cannot be read: {e}", hint)
    if verdict != "ok":
        return _fail("database", f"'{path}' is damaged: {verdict}", hint)
    return _ok("database", f"'{path}' has schema {schema}")


def _sentinel(directory: Path) -> Finding:
    """Look where the mark of an awaited reboot lies: it must vanish with the reboot."""
    place = next(path for path in (directory, *directory.parents) if path.exists()).resolve()
    if not MOUNTS.exists():
        hint = "mount /proc; in an image that does not run, use --root from outside"
        return _warn("reboot mark", f"'{directory}' cannot be judged without '{MOUNTS}'", hint)
    if _is_volatile(place):
        return _ok("reboot mark", f"'{directory}' vanishes with a reboot")
    hint = "set [bootloader] reboot_sentinel_dir to a directory below /run"
    return _fail("reboot mark", f"'{directory}' outlives a reboot", hint)


def _is_volatile(place: Path) -> bool:
    """Whether a directory lies on a tmpfs, by the longest mountpoint above it."""
    lines = (line.split(" ") for line in MOUNTS.read_text().splitlines())
    above = [(Path(point), kind) for _, point, kind, *_ in lines if place.is_relative_to(point)]
    return max(above, key=lambda mount: len(mount[0].parts))[1] in ("tmpfs", "ramfs")


def _file_system(name: str) -> Finding:
    hint = f"build the kernel with {name}, or take it out of [usb_update] filesystems"
    if _knows_file_system(name):
        return _ok("file system", name)
    return _warn("file system", f"this kernel does not know {name}", hint)


def _packs() -> Finding:
    """Say how bundles in one file would be read here, see `adapters.packs`."""
    if not _knows_file_system(PACK_FILE_SYSTEM):
        hint = "build the kernel with it, or bring bundles as directories"
        return _warn("packs", f"this kernel does not know {PACK_FILE_SYSTEM}", hint)
    verity = Path("/sys/module/dm_verity").exists() or _has_module("dm-verity")
    if verity and shutil.which("veritysetup"):
        return _ok("packs", "verified by the kernel as they are read")
    return _ok("packs", "copied and verified: no dm-verity or no 'veritysetup' here")


def _knows_file_system(name: str) -> bool:
    known = any(line.split()[-1:] == [name] for line in _lines(FILE_SYSTEMS))
    return known or _has_module(name)


def _has_module(name: str) -> bool:
    modules = Path("/lib/modules", os.uname().release)
    lists = _lines(modules / "modules.dep", modules / "modules.builtin")
    return any(f"/{name}.ko" in line for line in lists)


def _lines(*paths: Path) -> Iterable[str]:
    return (line for path in paths if path.exists() for line in path.read_text().splitlines())


def _policy(settings: Settings) -> Iterator[Finding]:
    ours = settings.usb_update
    if ours.reboot == "window" and not ours.windows:
        hint = 'set [usb_update] windows, or reboot = "now" or "never"'
        yield _fail("reboot", "reboots wait for a window, but there is none", hint)


def _equipment(settings: Settings) -> Iterator[Finding]:
    """Look for the lamps and keys that the policy names; they are there on the device only."""
    ours = settings.usb_update
    for led in ours.leds:
        if not (LEDS / led).exists():
            hint = f"choose from '{LEDS}'"
            yield _warn("lamp", f"there is no LED {led!r}", hint)
    device = ours.confirm_key.partition("#")[0]
    if device.startswith("/") and not Path(device).exists():
        hint = "check [usb_update] confirm_key; 'usb-update confirm' works without it"
        yield _warn("key", f"there is no input device '{device}'", hint)


def _part(part: ServiceFile) -> Finding:
    hint = "run 'usb-update service install'"
    if not part.present:
        return _fail("service file", f"'{part.place}' is missing", hint)
    if not part.current:
        return _warn("service file", f"'{part.place}' is not the one this version ships", hint)
    return _ok("service file", str(part.place))


def _starts(*, enabled: bool) -> Finding:
    if not enabled:
        return _fail("service", "it does not start at boot", "run 'usb-update service install'")
    return _ok("service", "starts at boot")


def _service(*, enabled: bool) -> Finding:
    starts = _starts(enabled=enabled)
    if not enabled:
        return starts
    if not SYSTEMD_RUNS.is_dir():
        return _ok("service", "starts at boot; systemd does not run here")
    try:
        shell.run(["systemctl", "is-active", "--quiet", WATCH_UNIT], timeout_s=QUERY_TIMEOUT_S)
    except shell.CommandError:
        hint = f"see 'systemctl status {WATCH_UNIT}'"
        return _fail("service", "starts at boot, but does not run now", hint)
    return _ok("service", "starts at boot and runs")
