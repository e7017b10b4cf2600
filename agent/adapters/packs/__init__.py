"""Packs on a device: where one is opened, and how everything is closed again.

`packs.medium` opens them. This half is light, since the idle daemon clears away what a
killed process left open.

Host commands used: umount; with dm-verity veritysetup.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.adapters import shell
from agent.log import get_logger

log = get_logger()

TOOL_TIMEOUT_S = 60.0  # a worn stick answers its first reads late
MAPPING = "usb-update-pack"
MAPPER = Path("/dev/mapper")
MOUNTPOINT = Path("/run/usb-update/mnt-pack")  # `mnt-` is what the agent's mounts are called
COPY = "pack-image"


@dataclass(frozen=True, slots=True)
class Places:
    """Where a pack is opened on a device.

    Attributes:
        copy: the verified image, while there is no dm-verity.
        mountpoint: in a directory of root's own.
    """

    copy: Path
    mountpoint: Path = MOUNTPOINT


def places(ledger: Path) -> Places:
    """Return the places of a device whose own state is in ``ledger``."""
    return Places(ledger / COPY)


def clear(places: Places) -> None:
    """Close everything that is open, also of a process that was killed. Idempotent."""
    if os.path.ismount(places.mountpoint):
        _unmount(places.mountpoint)
    with suppress(OSError):  # not there, or still busy: then the next one finds it
        places.mountpoint.rmdir()
    if (MAPPER / MAPPING).exists():
        tell("pack.mapping_kept", ["veritysetup", "close", MAPPING])
    places.copy.unlink(missing_ok=True)


def run(argv: list[str]) -> shell.Finished:
    """Run a program that opens or closes.

    Raises:
        CommandError: as `shell.run`.
    """
    return shell.run(argv, timeout_s=TOOL_TIMEOUT_S)


def tell(event: str, argv: list[str]) -> bool:
    """Run what clears away; a failure is told as ``event`` and not raised."""
    try:
        run(argv)
    except shell.CommandError as e:
        log.warning(event, error=e.stderr)
        return False
    return True


def _unmount(mountpoint: Path) -> None:
    argv = ["umount", "--no-canonicalize", str(mountpoint)]
    if not tell("pack.unmounted_lazily", argv):
        tell("pack.mount_kept", ["umount", "--lazy", str(mountpoint)])
