"""A bundle in one file, opened on the device: its image mounted so that nothing is believed.

Law: the image is given to the kernel's file-system driver only after its seal was verified
(`opened` takes the verified `SealedImage`), and never straight from the stick. Where the
kernel has dm-verity, it verifies each block as it is read; else the image is copied to the
device, each block verified first, and the copy is mounted. The mount is
``ro,nosuid,nodev,noexec,nosymfollow`` in the agent's own directory. What a killed process
left is cleared away before the next one begins.

Host commands used: mount; with dm-verity losetup, veritysetup.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.adapters import packfile, shell
from agent.adapters.packs import MAPPER, MAPPING, Places, clear, run, tell
from agent.core.bundle import Inventory, RawBundle, SealedImage
from agent.core.errors import BundleError, PackInvalidError, PullError, StoreError
from agent.core.target import Target
from agent.core.verity import BLOCK_BYTES, tree_size
from agent.log import get_logger
from agent.ports import Progress

log = get_logger()

SAFE = "ro,nosuid,nodev,noexec,noatime"
NO_LINKS = "nosymfollow"  # Linux 5.10
FILE_SYSTEMS = Path("/proc/filesystems")


@dataclass(frozen=True, slots=True)
class MountedContent:
    """The `Content` port on a mounted image.

    Attributes:
        path: where it is mounted.
    """

    path: Path

    @property
    def ostree_repo(self) -> Path:
        """See `ports.Content`."""
        return self.path / "ostree_repo"

    @property
    def apps(self) -> Path:
        """See `ports.Content`."""
        return self.path / "apps"


@dataclass(frozen=True, slots=True)
class PackMedium:
    """The `Medium` port on a pack. Keeps nothing: a stick may be full of large headers.

    Attributes:
        path: the file.
        places: where its content is opened.
    """

    path: Path
    places: Places

    def read(self) -> RawBundle:
        """See `ports.Medium`."""
        header = packfile.read_header(self.path)
        return RawBundle(header.documents, str(self.path), header.seal)

    def inventory(self, targets: Sequence[Target]) -> Inventory:
        """See `ports.Medium`. What the seal says, so nothing is opened for it."""
        try:
            claimed = packfile.read_header(self.path).facts.content
        except BundleError:
            return Inventory()  # what cannot be read is not there
        commits = {target.commit for target in targets}
        uris = {app.uri for target in targets for app in target.apps}
        return Inventory(claimed.commits & commits, claimed.app_uris & uris)

    @contextmanager
    def opened(self, image: SealedImage | None, progress: Progress) -> Iterator[MountedContent]:
        """See `ports.Medium`."""
        if image is None:
            raise PackInvalidError(f"the seal of '{self.path}' was not verified")
        clear(self.places)
        with ExitStack() as stack:
            stack.callback(clear, self.places)
            _open(self.path, image, self.places, progress)
            log.info("pack.opened", path=str(self.path), size_bytes=image.size)
            yield MountedContent(self.places.mountpoint)


def _open(path: Path, image: SealedImage, places: Places, progress: Progress) -> None:
    if _opened_by_kernel(path, image, places):
        return
    packfile.copy_image(path, image, places.copy, progress)
    _mount(places.copy, image, places.mountpoint, loop=True)
    # Mounted, the copy needs no name: whatever happens now, it goes with the mount.
    places.copy.unlink(missing_ok=True)


def _opened_by_kernel(path: Path, image: SealedImage, places: Places) -> bool:
    """Mount through dm-verity; False where that cannot be.

    A changed block, a mapping that the service may not read, an old kernel: whichever it
    is, copying and verifying tells them apart.
    """
    mapped = _mapped(path, image)
    if mapped is None:
        return False
    try:
        _mount(mapped, image, places.mountpoint, loop=False)
    except (PullError, StoreError) as e:
        log.info("pack.verity_unavailable", error=e.message)
        clear(places)
        return False
    return True


# --- dm-verity: the kernel verifies ------------------------------------------------------


def _mapped(path: Path, image: SealedImage) -> Path | None:
    """Let the kernel verify the file; None where it cannot."""
    if shutil.which("veritysetup") is None or not (MAPPER / "control").exists():
        return None
    try:
        device = loop_device(path, image)
        try:
            run(open_words(device, image))
        finally:
            # Marks it to go when its last user goes.
            tell("pack.loop_kept", ["losetup", "--detach", device])
    except shell.CommandError as e:
        # Nothing is lost but room: the copy is verified all the same.
        log.info("pack.verity_unavailable", error=e.stderr)
        return None
    return MAPPER / MAPPING


def loop_device(path: Path, image: SealedImage) -> str:
    """Show image and tree, and nothing else of the file, as a read-only block device."""
    length = image.size + tree_size(image.size)
    window = ["--offset", str(image.offset), "--sizelimit", str(length)]
    argv = ["losetup", "--find", "--show", "--read-only", *window, str(path)]
    return run(argv).text.strip()


def open_words(device: str, image: SealedImage) -> list[str]:
    """Say everything: no superblock is read, so nothing but blocks comes from the stick."""
    return [
        "veritysetup",
        "open",
        "--no-superblock",
        "--format=1",
        "--hash=sha256",
        f"--data-block-size={BLOCK_BYTES}",
        f"--hash-block-size={BLOCK_BYTES}",
        f"--data-blocks={image.size // BLOCK_BYTES}",
        f"--hash-offset={image.size}",
        f"--salt={image.salt.hex() or '-'}",
        device,
        MAPPING,
        device,
        image.root_hash.hex(),
    ]


# --- mounts ------------------------------------------------------------------------------


def _mount(source: Path, image: SealedImage, mountpoint: Path, *, loop: bool) -> None:
    mountpoint.mkdir(mode=0o700, parents=True, exist_ok=True)
    options = f"{SAFE},loop" if loop else SAFE
    argv = ["mount", "-t", image.file_system, "--source", str(source)]
    argv += ["--target", str(mountpoint), "-o"]
    try:
        try:
            run([*argv, f"{options},{NO_LINKS}"])
        except shell.CommandError:
            # An older kernel or program lacks the flag; readers of a bundle refuse links.
            run([*argv, options])
    except shell.CommandError as e:
        raise _mount_failure(image, e) from e


def _mount_failure(image: SealedImage, error: shell.CommandError) -> PullError | StoreError:
    if image.file_system not in FILE_SYSTEMS.read_text("ascii").split():
        return StoreError(
            f"this device's kernel has no {image.file_system}, which packs are made of",
            hint="use the bundle's directory instead of a pack",
        )
    return PullError(f"the pack's image cannot be mounted: {error.stderr}", hint=packfile.AGAIN)
