"""What the services need of the world, and nothing of how it is done.

Each port is named after a thing. Adapters satisfy them by shape; ``tests/fakes`` holds
an in-memory one of each, and ``tests/contract`` one suite that both must pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # shapes alone: who carries no record need not know what one is
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime
    from pathlib import Path

    from agent.core.bundle import Inventory, RawBundle, SealedImage, TrustedDocuments
    from agent.core.bundletype import BundleType
    from agent.core.feedback import Signal
    from agent.core.promise import Promise
    from agent.core.record import Delivery, Record
    from agent.core.stick import BlockEvent
    from agent.core.target import AppRef, Target

Progress = Callable[[str, int, int], None]
"""Called with (step, bytes done, bytes in all); 0 in all means not known."""


class Content(Protocol):
    """What a bundle carries beside its metadata. Untrusted: its digests are the check."""

    @property
    def ostree_repo(self) -> Path:
        """Directory of the bundle's OSTree repository; it need not exist."""

    @property
    def apps(self) -> Path:
        """Directory of the bundle's App store; it need not exist."""


class Medium(Protocol):
    """One bundle of a stick, or of ``--src-dir``: a directory or a pack. Untrusted."""

    def read(self) -> RawBundle:
        """Read every metadata file once, bounded, links and special files refused.

        Raises:
            MetadataInvalidError, BundleMetadataInvalidError, PackInvalidError: a file is
                not a bounded regular file, or a pack is malformed.
            MetadataNotFoundError: there is no ``tuf`` directory.
        """

    def inventory(self, targets: Sequence[Target]) -> Inventory:
        """Which of these Targets' commits and App URIs the medium claims to carry.

        Raises:
            PullError: the medium cannot be read.
        """

    def opened(
        self, image: SealedImage | None, progress: Progress
    ) -> AbstractContextManager[Content]:
        """Keep the bundle's content readable for the duration.

        Args:
            image: of the verified bundle; a directory has none.
            progress: told how far opening has come.

        Raises:
            PullError, NoSpaceError, StoreError: a pack cannot be opened here.
        """


class Trust(Protocol):
    """The TUF documents this device trusts (``sql.db``)."""

    def documents(self) -> TrustedDocuments:
        """Return what was verified before, provisioned roots included.

        Raises:
            StateError: the database cannot be read.
        """

    def remember(self, documents: TrustedDocuments) -> None:
        """Replace what is trusted, all or nothing. Idempotent."""


class Versions(Protocol):
    """What is installed, pending or failed here (``sql.db``, shared with aktualizr-lite)."""

    def hardware_id(self) -> str:
        """Return the device's hardware ID, as first recorded."""

    def current(self, booted_commit: str) -> Target:
        """Return the Target this boot runs; `target.unknown_target` when none is known."""

    def ensure_initial(self, booted_commit: str, apps: Sequence[AppRef]) -> None:
        """Record what runs as "Initial Target" when nothing recorded names it. Idempotent."""

    def pending(self) -> Target | None:
        """Return the Target that waits for ``run``."""

    def reboot_needed(self) -> bool:
        """Whether the pending Target was staged for a boot that had not come yet."""

    def has_failed(self, target: Target) -> bool:
        """Whether this Target was tried here and never succeeded."""

    def rollback_target(self, failed: Target) -> Target | None:
        """Return the newest Target that succeeded here, other than ``failed``."""

    def save_pending(self, target: Target, *, needs_reboot: bool, correlation_id: str) -> None:
        """Record ``target`` as waiting for ``run``; one transaction. Idempotent."""

    def save_current(self, target: Target) -> None:
        """Record ``target`` as the one that runs; nothing is pending. One transaction."""

    def save_failed(self, target: Target) -> None:
        """Record ``target`` as tried without success; nothing is pending. One transaction."""


class Ledger(Protocol):
    """What only this agent keeps: promise, clock floor, bundle type, quarantine."""

    def promise(self, promise: Promise) -> None:
        """Make ``promise`` durable, replacing the one before."""

    def promised(self) -> Promise | None:
        """Return the open promise."""

    def forget(self) -> None:
        """Drop the promise: kept, or given up. Idempotent."""

    def last_seen_utc(self) -> datetime | None:
        """Return the newest time this device has trusted."""

    def saw_utc(self, when: datetime) -> None:
        """Move the newest trusted time forward; an earlier one changes nothing."""

    def bundle_type(self) -> BundleType | None:
        """Return the type the first installed bundle fixed, None before it."""

    def fix_bundle_type(self, bundle_type: BundleType) -> None:
        """Record the type of the first installed bundle; later calls change nothing."""

    def quarantine(self, target: Target, reason: str) -> None:
        """Remember that ``target`` rolled back here, and why."""

    def quarantined(self) -> dict[str, str]:
        """Return Target identity (``quarantine_key``) to reason."""

    def forgive(self, name: str | None = None) -> tuple[str, ...]:
        """Release a Target (None: all) from quarantine; return the names released."""


class Sysroot(Protocol):
    """The OSTree sysroot: where deployments live."""

    def booted_commit(self) -> str:
        """Return the commit this boot runs, 64 hex digits.

        Raises:
            SysrootError: no deployment is booted (or, in a sysroot that is not booted,
                there is none at all).
        """

    def staged_commit(self) -> str | None:
        """Return the commit of the next boot when it is not the booted one."""

    def has_commit(self, commit: str) -> bool:
        """Whether the repository holds ``commit`` whole (not partial)."""

    def pull(self, repo: Path, commit: str, progress: Progress) -> None:
        """Copy ``commit`` from the bundle's ``repo``, checking every object's hash.

        Raises:
            PullError: the medium's repository is not usable, or an object did not match.
            NoSpaceError: too little space, by the reference's formula.
            StoreError: the device's repository cannot be written.
        """

    def stage(self, commit: str) -> None:
        """Make ``commit`` the deployment of the next boot, kernel arguments kept. Idempotent.

        Raises:
            StageError: the device boots as before.
        """

    def unstage(self, commit: str) -> None:
        """Remove ``commit``'s deployment unless it is the booted one. Idempotent."""

    def prune(self) -> None:
        """Remove what no deployment needs any more."""

    def firmware_version(self, commit: str) -> str | None:
        """Return ``bootfirmware_version`` of ``usr/lib/firmware/version.txt`` in ``commit``.

        Raises:
            BootFirmwareError: the file is there but holds no version.
        """

    def committed_utc(self, commit: str) -> datetime | None:
        """Return the commit's own timestamp: when that image was built."""


class Apps(Protocol):
    """Compose Apps of this device: its store, its projects, its Docker engine."""

    def missing(self, apps: Sequence[AppRef]) -> tuple[AppRef, ...]:
        """Return those that are not whole in the device's store."""

    def running(self, apps: Sequence[AppRef]) -> bool:
        """Whether exactly these versions are installed and their services exist."""

    def fetch(self, store: Path, app: AppRef, progress: Progress) -> None:
        """Copy ``app`` from the bundle's ``store``, each blob read once and hashed.

        Raises:
            PullError, NoSpaceError, StoreError: what was copied is kept for a retry.
            ComposeInvalidError: the App's compose file cannot be used.
        """

    def check(self, app: AppRef) -> None:
        """Check the fetched App's compose project.

        Raises:
            ComposeInvalidError: it cannot be used.
        """

    def start(self, app: AppRef) -> None:
        """Unpack, load the images and start ``app``. Idempotent.

        Raises:
            AppStartError: it does not run; what was started is left for inspection.
        """

    def stop_all_but(self, keep: Sequence[AppRef]) -> None:
        """Stop and remove every installed App whose name is not among ``keep``."""

    def prune(self, keep: Sequence[AppRef]) -> None:
        """Drop stored Apps and images that ``keep`` does not need."""

    def installed(self) -> tuple[AppRef, ...]:
        """Return the Apps that are unpacked on this device, as far as they are known."""


class BootEnv(Protocol):
    """The boot loader's environment, by ``[bootloader] rollback_mode``."""

    @property
    def counts_boots(self) -> bool:
        """Whether there is a boot loader that waits for `confirm_boot`."""

    @property
    def updates_firmware(self) -> bool:
        """Whether this mode knows about boot firmware updates."""

    def confirm_boot(self) -> None:
        """Tell the boot loader that this boot is good. Idempotent."""

    def expect_new_rootfs(self) -> None:
        """Tell the boot loader that the next boot tries something new. Idempotent."""

    def firmware_update_pending(self) -> bool:
        """Whether an earlier boot firmware update still waits for its reboot."""

    def rollback_protected(self) -> bool:
        """Whether older boot firmware must be refused."""

    def firmware_version(self) -> str | None:
        """Return the version of the boot firmware that runs."""

    def flag_firmware_update(self) -> None:
        """Tell the boot loader that the new rootfs brings new boot firmware."""


class Boots(Protocol):
    """Which boot this is, and whether one has happened since it was asked for."""

    def boot_id(self) -> str:
        """Return the kernel's id of this boot."""

    def await_reboot(self) -> None:
        """Leave the mark that vanishes with a reboot."""

    def awaited(self) -> bool:
        """Whether the mark is still there: no reboot since."""

    def stop_waiting(self) -> None:
        """Remove the mark. Idempotent."""


class Clock(Protocol):
    """The system's clock. Not trusted: see `policy.trusted_now`."""

    def now(self) -> datetime:
        """Return the time, UTC."""


class Callbacks(Protocol):
    """The owner's program, told about each step (``[pacman] callback_program``)."""

    def notify(self, message: str, *, current: str, target: str = "", result: str = "") -> None:
        """Run it with the reference's environment; its failure is logged, not raised."""


class Results(Protocol):
    """Records kept on the device: its history, and those still owed to a stick."""

    def keep(self, record: Record) -> Record:
        """Give ``record`` its number, make it durable, owe it to a stick; return it numbered.

        What cannot be stored is logged and owed until the process ends; nothing is raised.
        """

    def owed(self) -> tuple[Record, ...]:
        """Return what no stick has yet, oldest first."""

    def settle(self, record: Record) -> None:
        """Owe ``record`` no more: a stick has it. Idempotent."""

    def history(self) -> tuple[Record, ...]:
        """Return the records still kept, oldest first."""


class Letterbox(Protocol):
    """A stick, mounted for writing for a short time."""

    def put(self, record: Record) -> Delivery:
        """Write ``record`` so that a power cut leaves it whole or absent; raises nothing."""


class Signals(Protocol):
    """Everything this device has to tell a person with."""

    def show(self, signal: Signal) -> None:
        """Tell it; what cannot be told is logged once, not raised."""


# --- the door: sticks come and go -------------------------------------------------------


class Source(Protocol):
    """Something a poll can watch."""

    def fileno(self) -> int:
        """Return the descriptor to watch."""


class Wakeups(Protocol):
    """The one place where the daemon sleeps."""

    def wait(self, timeout_s: float | None, *, mounts: bool = False) -> None:
        """Sleep until something happens, and let its listener deal with it.

        Args:
            timeout_s: at most so long; None for as long as it takes, 0 to only look.
            mounts: whether a change of the mount table is something, too.
        """

    def stopping(self) -> bool:
        """Whether the daemon was asked to end."""


class Devices(Protocol):
    """Tagged file systems of this device, as they come and go."""

    def fileno(self) -> int:
        """Return the descriptor that is readable when `read` has news."""

    def present(self) -> tuple[BlockEvent, ...]:
        """Return what is plugged in now, as ADD."""

    def read(self) -> tuple[BlockEvent, ...]:
        """Return what happened since the last call, in order; never waits, loses nothing."""


class Mounts(Protocol):
    """Sticks in the file tree, as long as they are looked at."""

    def ready(self, event: BlockEvent) -> bool:
        """Whether `mounted_ro` need not wait: we mount ourselves, or an automounter did."""

    def mounted_ro(self, event: BlockEvent) -> AbstractContextManager[Path]:
        """Keep the stick readable, at a directory of ours, for the duration.

        Raises:
            FileSystemRefusedError: nothing, or nothing that is allowed, to mount.
            MountError: it cannot be mounted, or is gone.
        """

    def mounted_rw(self, event: BlockEvent) -> AbstractContextManager[Path]:
        """Keep the stick writable for a short time; only after `mounted_ro` has ended.

        Raises:
            FileSystemRefusedError, MountError: as above, or it is read-only.
        """

    def clean(self) -> None:
        """Remove what an earlier, killed process left mounted. Idempotent."""


class Confirmations(Protocol):
    """A person's yes: ``usb-update confirm``, or a key."""

    def ask(self) -> None:
        """From now on a yes counts; an earlier one does not."""

    def given(self) -> bool:
        """Whether a yes came since `ask`."""

    def close(self) -> None:
        """From now on nobody is asked."""


class Power(Protocol):
    """The switch of this device."""

    def reboot(self) -> None:
        """Start the reboot and return.

        Raises:
            RebootInhibitedError: a program asked to wait; try again later.
            RebootError: it could not be started.
        """


class Services(Protocol):
    """Other update agents, which must not work at the same time."""

    def stop(self) -> None:
        """Stop those that run, having noted durably which they are.

        Raises:
            StateError: the note cannot be written; nothing was stopped.
        """

    def restore(self) -> None:
        """Start again what `stop` stopped, also in an earlier life. Idempotent."""
