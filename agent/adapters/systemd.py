"""systemd: reboot, and the services that must stand still during an attempt.

A reboot goes through ``systemctl reboot --check-inhibitors=yes``, so that a program that
asked the device to stay up (a database's backup, a technician's session) is honoured and the
reboot tried again later. A ``reboot_command`` of the owner's is run as it is. On a machine
without systemd nothing is stopped and the command alone reboots.

Host commands used: systemctl, or the configured reboot command.
"""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.adapters import files, shell
from agent.core.errors import RebootError, RebootInhibitedError, StateError
from agent.log import get_logger

log = get_logger()

SYSTEMD_RUNS = Path("/run/systemd/system")  # sd_booted(3)
DEFAULT_REBOOT = "/sbin/reboot"
REBOOT_TIMEOUT_S = 60.0  # only to hand the request over
STOP_TIMEOUT_S = 120.0  # above systemd's own 90 s until it kills
QUERY_TIMEOUT_S = 30.0
NOTE_LIMIT_BYTES = 16 * 1024
NOTE_NAME = "stopped-services"
NOT_ACTIVE = (3, 4)  # systemctl is-active: inactive; no such unit
_UNIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_.\\@-]{0,250}", re.ASCII)
_INHIBITED = re.compile(r"inhibit", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SystemdPower:
    """`Power`: logind where it runs, otherwise the configured command.

    Attributes:
        command: ``[bootloader] reboot_command``.
        systemd_runs: the directory that is there when systemd is the init.
    """

    command: str = DEFAULT_REBOOT
    systemd_runs: Path = SYSTEMD_RUNS

    def reboot(self) -> None:
        """See `ports.Power`."""
        argv = self.argv()
        log.info("reboot.requested", command=argv[0])
        try:
            shell.run(argv, timeout_s=REBOOT_TIMEOUT_S)
        except shell.CommandError as e:
            raise _reboot_error(argv, e) from e

    def argv(self) -> list[str]:
        """Return what reboots; the default command means "as is best here"."""
        if self.command != DEFAULT_REBOOT:
            return shlex.split(self.command)
        if self.systemd_runs.is_dir():
            return ["systemctl", "--no-ask-password", "--check-inhibitors=yes", "reboot"]
        return [DEFAULT_REBOOT]


def _reboot_error(argv: list[str], error: shell.CommandError) -> RebootError:
    # systemctl has no exit status of its own for it; a wrong guess only means another try.
    if argv[0] == "systemctl" and _INHIBITED.search(error.stderr):
        return RebootInhibitedError(
            f"a program holds the reboot back: {error.stderr}",
            hint="'systemd-inhibit --list' names it; the reboot is tried again",
        )
    return RebootError(
        f"the reboot could not be started: {error}",
        hint="check [bootloader] reboot_command, or switch the device off and on",
    )


class SystemdServices:
    """`Services`: stopped with systemctl, and never forgotten.

    Args:
        units: which, from ``[usb_update] stop_services``.
        directory: ours, where the note lies that survives a crash.
        systemd_runs: the directory that is there when systemd is the init.
    """

    def __init__(
        self, units: Sequence[str], directory: Path, *, systemd_runs: Path = SYSTEMD_RUNS
    ) -> None:
        self._units = tuple(units)
        self._note = directory / NOTE_NAME
        self._systemd_runs = systemd_runs

    def stop(self) -> None:
        """See `ports.Services`."""
        running = [unit for unit in self._units if self._is_running(unit)]
        if not running:
            return
        self._write_note(sorted({*running, *self._noted()}))
        for unit in running:
            self._systemctl("stop", unit, timeout_s=STOP_TIMEOUT_S)

    def restore(self) -> None:
        """See `ports.Services`."""
        stopped = self._noted()
        if not stopped:
            return
        # --no-block: a unit ordered after ours would otherwise wait for us, and we for it.
        started = [self._systemctl("--no-block", "start", unit) for unit in stopped]
        if all(started):
            files.remove_durably(self._note)

    def _is_running(self, unit: str) -> bool:
        if not _UNIT.fullmatch(unit) or not self._systemd_runs.is_dir():
            return False
        try:
            shell.run(["systemctl", "is-active", "--quiet", unit], timeout_s=QUERY_TIMEOUT_S)
        except shell.CommandError as e:
            if e.code not in NOT_ACTIVE:
                log.warning("service.unknown", unit=unit, error=str(e))
            return False
        return True

    def _systemctl(self, *words: str, timeout_s: float = QUERY_TIMEOUT_S) -> bool:
        try:
            shell.run(["systemctl", *words], timeout_s=timeout_s)
        except shell.CommandError as e:
            log.warning("service.unmoved", command=words, error=str(e))
            return False
        log.info("service.moved", command=words)
        return True

    def _write_note(self, units: Sequence[str]) -> None:
        try:
            self._note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            files.write_atomic(self._note, json.dumps(units).encode())
        except OSError as e:
            raise StateError(
                f"'{self._note}' cannot be written: {e.strerror}",
                hint="nothing was stopped; check that the storage is writable and has space",
            ) from e

    def _noted(self) -> tuple[str, ...]:
        """Return what the note says; one that cannot be read starts what is configured."""
        try:
            units = json.loads(files.read_bounded(self._note, limit=NOTE_LIMIT_BYTES))
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, files.NotRegularError, files.TooLargeError) as e:
            log.warning("service.note_unreadable", path=str(self._note), error=str(e))
            return self._units
        known = isinstance(units, list) and all(
            isinstance(unit, str) and _UNIT.fullmatch(unit) for unit in units
        )
        return tuple(units) if known else self._units
