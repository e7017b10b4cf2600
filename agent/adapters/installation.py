"""The service's files: put them into a system, take them out, see whether they are current.

In: a root directory, ``/`` or that of an image being built. The rule and the units are
those shipped with this program: beside it in a source tree, inside it when installed. Where
a package has put them already, nothing is copied over them: a copy in /etc would hide what
the package's next version brings.

Host commands used: udevadm, systemctl (only for the running system).
"""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.adapters import files, shell
from agent.core.errors import StateError
from agent.log import get_logger

log = get_logger()

PACKAGE = Path(__file__).resolve().parent.parent
RULE = "90-usb-update.rules"
WATCH_UNIT, RUN_UNIT = "usb-update.service", "usb-update-run.service"
UNITS_DIRECTORY = "etc/systemd/system"
WANTS = "multi-user.target.wants"
PROGRAM = "/usr/bin/usb-update"  # as the units spell it
DEFAULT_PROMISE = "/var/sota/usb-update/pending"
DROP_IN = "50-this-device.conf"  # made here, so that an owner's own drop-ins stay theirs
FILE_MODE = 0o644
RELOAD_TIMEOUT_S = 60.0
LISTENERS = {"systemctl": Path("/run/systemd/system"), "udevadm": Path("/run/udev/control")}


@dataclass(frozen=True, slots=True)
class Shipped:
    """A file that comes with this program.

    Attributes:
        name: of the file, everywhere.
        source: directory it lies in, beside or inside the program.
        local: directory for files made on the device, from the root; it wins.
        packaged: directory for files of packages, from the root.
    """

    name: str
    source: str
    local: str
    packaged: str


SHIPPED = (
    Shipped(RULE, "udev-rules", "etc/udev/rules.d", "usr/lib/udev/rules.d"),
    Shipped(WATCH_UNIT, "systemd", UNITS_DIRECTORY, "usr/lib/systemd/system"),
    Shipped(RUN_UNIT, "systemd", UNITS_DIRECTORY, "usr/lib/systemd/system"),
)


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the service.

    Attributes:
        place: where it belongs, absolute.
        content: what it holds.
    """

    place: Path
    content: bytes

    @property
    def present(self) -> bool:
        """Whether something lies there."""
        return self.place.exists()

    @property
    def current(self) -> bool:
        """Whether it is what this program ships."""
        return self.present and self.place.read_bytes() == self.content


@dataclass(frozen=True, slots=True)
class Installation:
    """The service in one system.

    Attributes:
        root: of the system; ``/`` for the running one.
        storage: ``[storage] path``, where the promise lies.
        program: absolute path of ``usb-update`` as the system will have it.
    """

    root: Path = Path("/")
    storage: str = "/var/sota"
    program: str = PROGRAM

    def parts(self) -> tuple[Part, ...]:
        """Return every file of the service.

        Raises:
            StateError: this program came without them.
        """
        return (*(self._part(shipped) for shipped in SHIPPED), *self._drop_ins())

    def _part(self, shipped: Shipped) -> Part:
        """Return the file in effect, or the one to make."""
        content = _shipped(shipped.source, shipped.name)
        local = Part(self.root / shipped.local / shipped.name, content)
        packaged = Part(self.root / shipped.packaged / shipped.name, content)
        return packaged if packaged.current and not local.present else local

    @property
    def packaged(self) -> bool:
        """Whether files of the service belong to a package of this system."""
        return any((self.root / file.packaged / file.name).exists() for file in SHIPPED)

    def _drop_ins(self) -> tuple[Part, ...]:
        """Return what differs on this device from the units as shipped."""
        units = self.root / UNITS_DIRECTORY
        texts = {WATCH_UNIT: self._watch_drop_in(), RUN_UNIT: self._run_drop_in()}
        return tuple(
            Part(units / f"{unit}.d" / DROP_IN, text.encode())
            for unit, text in texts.items()
            if text
        )

    def _watch_drop_in(self) -> str:
        if self.program == PROGRAM:
            return ""
        resume = f"ExecStopPost=\nExecStopPost=-{self.program} service resume\n"
        return f"[Service]\nExecStart=\nExecStart={self.program} watch\n{resume}"

    def _run_drop_in(self) -> str:
        promise = f"{self.storage.rstrip('/')}/usb-update/pending"
        unit = f"[Unit]\nConditionPathExists=\nConditionPathExists={promise}\n"
        service = f"[Service]\nExecStart=\nExecStart={self.program} finish\n"
        return (unit if promise != DEFAULT_PROMISE else "") + (
            service if self.program != PROGRAM else ""
        )

    @property
    def _is_running_system(self) -> bool:
        return self.root == Path("/")

    def install(self) -> tuple[Path, ...]:
        """Put everything in place and enable it; return what changed. Idempotent.

        Raises:
            StateError: a file cannot be written.
        """
        changed = tuple(part.place for part in self.parts() if not part.current)
        try:
            for part in self.parts():
                _write(part)
            for stale in self._stale_drop_ins():
                stale.unlink()
            self._enable()
        except OSError as e:
            raise _unwritable(e) from e
        self._reload()
        return changed

    def _stale_drop_ins(self) -> list[Path]:
        wanted = {part.place for part in self.parts()}
        units = self.root / UNITS_DIRECTORY
        return [
            place
            for unit in (WATCH_UNIT, RUN_UNIT)
            if (place := units / f"{unit}.d" / DROP_IN).exists() and place not in wanted
        ]

    def _enable(self) -> None:
        """Make the links ``systemctl enable`` makes; an image is built without systemctl."""
        wants = self.root / UNITS_DIRECTORY / WANTS
        wants.mkdir(parents=True, exist_ok=True)
        for unit in (part.place for part in self.parts() if part.place.suffix == ".service"):
            link = wants / unit.name
            link.unlink(missing_ok=True)
            link.symlink_to("/" / unit.relative_to(self.root))

    def uninstall(self) -> tuple[Path, ...]:
        """Remove what `install` made; return what was removed. Idempotent.

        What a package brought stays; only its units do not start at boot any more.

        Raises:
            StateError: a file cannot be removed.
        """
        units = self.root / UNITS_DIRECTORY
        places = [
            *(self.root / file.local / file.name for file in SHIPPED),
            *(part.place for part in self._drop_ins()),
            *self._stale_drop_ins(),
            *(units / WANTS / unit for unit in (WATCH_UNIT, RUN_UNIT)),
        ]
        if self._is_running_system:
            _tell("systemctl", "stop", WATCH_UNIT)
        found = tuple(place for place in places if os.path.lexists(place))
        try:
            for place in found:
                place.unlink()
        except OSError as e:
            raise _unwritable(e) from e
        self._remove_empty_directories()
        self._reload()
        return found

    def _remove_empty_directories(self) -> None:
        for unit in (WATCH_UNIT, RUN_UNIT):
            directory = self.root / UNITS_DIRECTORY / f"{unit}.d"
            if directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()

    def _reload(self) -> None:
        if self._is_running_system:
            _tell("udevadm", "control", "--reload")
            _tell("systemctl", "daemon-reload")

    def start(self) -> None:
        """Start the service in the running system, and let udev look at what is plugged in."""
        if self._is_running_system:
            _tell("udevadm", "trigger", "--subsystem-match=block", "--action=change")
            _tell("systemctl", "--no-block", "restart", WATCH_UNIT)

    def enabled(self) -> bool:
        """Whether both units start at boot."""
        wants = self.root / UNITS_DIRECTORY / WANTS
        return all((wants / unit).is_symlink() for unit in (WATCH_UNIT, RUN_UNIT))


def this_program() -> str:
    """Return the absolute path of the ``usb-update`` that runs, as the units should call it."""
    beside = Path(sys.executable).with_name("usb-update")
    found = [Path(PROGRAM), Path(sys.argv[0]).absolute(), beside]
    named = [path for path in found if path.name == "usb-update" and os.access(path, os.X_OK)]
    return str(named[0]) if named else shutil.which("usb-update") or PROGRAM


def _shipped(directory: str, name: str) -> bytes:
    """Return a file that came with this program."""
    places = (PACKAGE / "shipped" / directory / name, PACKAGE.parent / directory / name)
    for place in places:
        if place.is_file():
            return place.read_bytes()
    raise StateError(
        f"'{name}' did not come with this program; expected at '{places[0]}'",
        hint="install the usb-update-agent package again",
    )


def _write(part: Part) -> None:
    part.place.parent.mkdir(parents=True, exist_ok=True)
    if not part.current:
        files.write_atomic(part.place, part.content, mode=FILE_MODE)
        log.info("service.file_written", path=str(part.place))


def _unwritable(error: OSError) -> StateError:
    return StateError(
        f"'{error.filename}' cannot be changed: {error.strerror}",
        hint="run as root; for an image give its directory with --root",
    )


def _tell(*argv: str) -> bool:
    """Tell the running system; without systemd or udev there is nobody to tell."""
    if not LISTENERS[argv[0]].exists():
        return False
    try:
        shell.run(argv, timeout_s=RELOAD_TIMEOUT_S)
    except shell.CommandError as e:
        log.warning("service.untold", command=argv, error=str(e))
        return False
    return True


def programs_missing(names: Sequence[str]) -> tuple[str, ...]:
    """Return those of ``names`` that are not on PATH."""
    return tuple(name for name in names if shutil.which(name) is None)
