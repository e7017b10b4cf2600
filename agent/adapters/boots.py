"""Which boot this is, and whether one has happened since it was asked for.

Two marks are left when a reboot is awaited: the sentinel file aktualizr-lite looks for, in
a directory that vanishes with the boot, and our own note of the kernel's boot id, on the
disk. The note alone is enough: where the sentinel's directory is unsafe or lies on a disk,
nothing but aktualizr-lite's view of our reboot is lost.

Source: reference-behaviour §10.3.
"""

import os
import stat
from pathlib import Path

from agent.adapters import files
from agent.core.errors import StateError
from agent.log import get_logger

log = get_logger()

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
NOTE_LIMIT_BYTES = 4096
DIRECTORY_MODE = 0o700  # aktualizr's rule: exactly this, and ours


class SentinelBoots:
    """ports.Boots by the kernel's boot id.

    Args:
        sentinel: the file that means "no reboot yet" to aktualizr-lite.
        note: our own file for the same, on a disk.
        this_machine: whether the sysroot is the one this kernel booted from; else a reboot
            is simulated by emptying the sentinel's directory, and only that file counts.
        boot_id: where the kernel tells this boot's id.
    """

    def __init__(
        self, sentinel: Path, note: Path, *, this_machine: bool = True, boot_id: Path = BOOT_ID
    ) -> None:
        self._sentinel = sentinel
        self._note = note
        self._this_machine = this_machine
        self._boot_id = boot_id

    def boot_id(self) -> str:
        """Return the kernel's id of this boot.

        Raises:
            StateError: there is no /proc, or it is not the kernel's.
        """
        boot_id = self._read(self._boot_id)
        if not boot_id:
            raise StateError(f"'{self._boot_id}' tells no boot id", hint="mount /proc")
        return boot_id

    def await_reboot(self) -> None:
        """Leave the marks that mean: not rebooted yet."""
        mark = self.boot_id().encode()
        self._write_note(mark)
        if self._is_safe(self._sentinel.parent):
            self._write_sentinel(mark)

    def awaited(self) -> bool:
        """Whether no reboot has happened since the marks were left.

        An empty sentinel is aktualizr-lite's mark; ours holds the boot id, so that one
        on a directory that does not vanish is not believed after a reboot.
        """
        sentinel = self._read(self._sentinel)
        if not self._this_machine:
            return sentinel is not None
        return sentinel == "" or self.boot_id() in (sentinel, self._read(self._note))

    def stop_waiting(self) -> None:
        """Remove the marks."""
        for mark in (self._sentinel, self._note):
            try:
                files.remove_durably(mark)
            except NotADirectoryError:
                continue
            except OSError as e:
                raise StateError(f"'{mark}' cannot be removed: {e.strerror}") from e

    def _read(self, path: Path) -> str | None:
        try:
            return files.read_bounded(path, limit=NOTE_LIMIT_BYTES).decode("ascii").strip()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (files.NotRegularError, files.TooLargeError, OSError, ValueError) as e:
            raise StateError(f"'{path}' cannot be read: {e}", hint="remove it") from e

    def _write_note(self, mark: bytes) -> None:
        try:
            self._note.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            files.write_atomic(self._note, mark)
        except OSError as e:
            raise StateError(f"'{self._note}' cannot be written: {e.strerror}") from e

    def _write_sentinel(self, mark: bytes) -> None:
        try:
            files.write_atomic(self._sentinel, mark)
        except OSError as e:
            log.warning("sentinel.skipped", path=str(self._sentinel), message=str(e.strerror))

    def _is_safe(self, directory: Path) -> bool:
        """Whether the sentinel's directory is ours alone; it is made when it is not there."""
        try:
            directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            found = directory.lstat()
        except OSError as e:
            log.warning("sentinel.skipped", path=str(directory), message=str(e.strerror))
            return False
        safe = (
            stat.S_ISDIR(found.st_mode)
            and stat.S_IMODE(found.st_mode) == DIRECTORY_MODE
            and found.st_uid == os.geteuid()
        )
        if not safe:
            log.warning("sentinel.skipped", path=str(directory), message="not ours with mode 0700")
        return safe
