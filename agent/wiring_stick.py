"""The desk of who makes and examines sticks: which adapter fills which port."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agent import wiring
from agent.adapters import mountinfo
from agent.adapters.authoring import stickdisk, stickfiles, stickmend, stickprobe
from agent.adapters.authoring.claims import claimed
from agent.adapters.authoring.destination import LOCK
from agent.adapters.medium import find_bundles
from agent.adapters.udev import system_disks
from agent.core.config import Settings
from agent.core.stick import BlockEvent
from agent.core.stickplan import FILE_SYSTEMS, Disk, bearer
from agent.ports import Progress
from agent.services.author import DeviceGuess
from agent.services.station import no_progress
from agent.services.stickmaker import Access, StickDesk

MOUNTS = Path("/run/usb-update-stick")  # not the service's: it removes what it finds in its own


def stick_desk(progress: Progress = no_progress) -> StickDesk:
    """Open the desk.

    Args:
        progress: told how far writing and reading have come.
    """
    table = mountinfo.mounts()
    mounted = {
        mount.number: tuple(
            str(other.mountpoint) for other in table if other.number == mount.number
        )
        for mount in table
    }
    disks = stickdisk.Disks(system_disks(), mounted, stickdisk.blkid)
    return StickDesk(
        desk=wiring.author_desk(progress),
        disk=disks.named,
        opened=opened,
        fs_type=mounted_type,
        make_file_system=stickdisk.make_file_system,
        tree=stickfiles.read_tree,
        alone=lambda place: claimed(place, place / LOCK, "writes this stick"),
        stick=lambda place, name: stickfiles.StickDirectory(place, name, mounted_type(place)),
        pack=lambda place, name: stickfiles.StickPack(place, name, mounted_type(place)),
        find_bundles=find_bundles,
        deep_bundles=stickmend.deep_bundles,
        mend=stickmend.mend,
        probe=stickprobe.probe_capacity,
        is_there=os.path.lexists,
        is_directory=Path.is_dir,
    )


@contextmanager
def opened(disk: Disk | None, path: Path, access: Access) -> Iterator[Path]:
    """Keep a stick in the file tree; a directory is there already.

    Args:
        disk: the stick; None for a directory whose disk does not matter.
        path: what was named.
        access: whether it is written.

    Raises:
        AuthoringError, MountError: nothing on it can be mounted.
    """
    if disk is None or disk.by_directory:
        yield path
        return
    part = bearer(disk)
    event = BlockEvent(part.devnode, number=part.number, fs_type=part.fs_type, label=part.label)
    mounts = mountinfo.StickMounts(FILE_SYSTEMS, directory=MOUNTS)
    mounted = mounts.mounted_rw if access is Access.WRITE else mounts.mounted_ro
    with mounted(event) as place:
        yield place


def mounted_type(path: Path) -> str:
    """Return the file system that is mounted at ``path``, whole; empty when none is."""
    here = path.resolve()
    found = [m for m in mountinfo.mounts() if m.mountpoint == here and m.root == "/"]
    return found[-1].fs_type if found else ""


def device_of(settings: Settings) -> tuple[DeviceGuess, Sequence[str]]:
    """Return what a device's configuration says of it, and the file systems it mounts."""
    roots = Path(settings.storage.provisioned_roots)
    guess = DeviceGuess(
        roots=roots if roots.is_dir() else None,
        bundle_type=settings.usb_update.device_type,
        tags=settings.pacman.tags or (),
        hardware_id=settings.provision.primary_ecu_hardware_id,
    )
    return guess, settings.usb_update.filesystems
