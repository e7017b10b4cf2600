"""The sysroot: which deployments there are, which one runs, and making the next one."""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from agent.adapters import shell
from agent.adapters.ostree.repository import Repository
from agent.adapters.ostree.watch import Deadlines
from agent.core.errors import BootFirmwareError, StageError, SysrootError
from agent.ports import Progress

FIRMWARE_FILE = "usr/lib/firmware/version.txt"
FIRMWARE_MARKER = "bootfirmware_version="
PROTECTING_REF = "usb-update/staging"  # exists only while one staged commit replaces another
DEPLOYMENT = re.compile(
    r"(?P<booted>[* ]) (?P<os>\S+) (?P<commit>[0-9a-f]{64})\.[0-9]+(?: .*)?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Deployment:
    """One line of ``ostree admin status``.

    Attributes:
        index: what ``ostree admin undeploy`` calls it.
        booted: whether ``ostree`` itself says so; never in a sysroot that is not booted.
    """

    index: int
    os: str
    commit: str
    booted: bool


class OstreeSysroot:
    """The `Sysroot` port on a real sysroot, booted or not.

    A booted sysroot (``[pacman] booted = "booted"``): ``ostree`` knows which deployment
    runs, from the inode of ``/``.

    A sysroot directory that is not booted (``"staged"`` or ``"0"``, for tests and demos):
    the first deployment of the os counts as booted. While a reboot is awaited (the mark of
    `Boots`, or a `stage` by this very object) the first one is the staged one and the
    second one, which it was merged from, counts as booted. So the mark is set after
    `stage`, and an object does not outlive a simulated reboot.
    """

    def __init__(  # noqa: PLR0913  each is one key of the configuration
        self,
        sysroot: Path,
        *,
        os: str,
        booted: bool = True,
        reserved_percent: int | None = None,
        reboot_awaited: Callable[[], bool] = lambda: False,
        deadlines: Deadlines | None = None,
    ) -> None:
        """Remember where things are; nothing is opened.

        Args:
            sysroot: ``/`` on a device.
            os: name of the operating system, ``[pacman] os``; empty means the booted one, and
                in a sysroot that is not booted the one of its first deployment.
            booted: whether the machine runs from this sysroot.
            reserved_percent: ``[pacman] sysroot_ostree_reserved_space_percentage``, written
                to the repository's config before a pull; None keeps what is there.
            reboot_awaited: `Boots.awaited`; asked only when not ``booted``.
            deadlines: for tests; None means the defaults.
        """
        self._sysroot = sysroot
        self._os = os
        self._is_booted = booted
        self._reboot_awaited = reboot_awaited
        self._deadlines = deadlines or Deadlines()
        self._repository = Repository(sysroot / "ostree/repo", reserved_percent, self._deadlines)
        self._staged_here = False
        self._dates: dict[str, datetime] = {}

    # --- what is deployed --------------------------------------------------------------

    def booted_commit(self) -> str:
        """Return the commit this boot runs; see the class about sysroots not booted."""
        return self._booted(self._deployments()).commit

    def staged_commit(self) -> str | None:
        """Return the commit of the next boot when it is not the booted one."""
        deployments = self._deployments()
        booted, first = self._booted(deployments), deployments[0]
        return None if first.commit == booted.commit else first.commit

    def staged_directory(self) -> Path | None:
        """Return where the deployment of the next boot lies, None when it is the booted one."""
        staged = self.staged_commit()
        if staged is None:
            return None
        deployments = self._sysroot / "ostree/deploy" / self._os_name() / "deploy"
        return next(deployments.glob(f"{staged}.[0-9]*/"), None)

    def stage(self, commit: str) -> None:
        """Make ``commit`` the deployment of the next boot, kernel arguments kept. Idempotent.

        Not by ``--stage``: that leaves the work to the shutdown, where a failure is seen by
        nobody and a power cut undoes it in silence. libostree syncs the file systems before
        it swaps the boot entries. The deployment before stays for the boot loader's
        rollback; older ones go, as with the reference. The origin is the bare commit.

        Raises:
            StageError: the device boots as before.
            SysrootError: the sysroot is not as it must be.
        """
        deployments = self._deployments()
        booted, first = self._booted(deployments), deployments[0]
        if first.commit == commit:
            return
        replaces = first != booted
        if replaces:
            self._replace(first, commit)
        if booted.commit != commit:
            self._deploy(commit)
        if replaces:
            self._release()

    def unstage(self, commit: str) -> None:
        """Remove ``commit``'s deployments unless it is the booted one. Idempotent.

        Raises:
            StageError: it could not be removed.
        """
        while found := self._removable(commit):
            self._undeploy(found)

    def prune(self) -> None:
        """Remove what no deployment needs any more: rootfs directories and objects.

        Raises:
            StageError: it could not be removed; what is deployed is whole.
        """
        self._release()
        try:
            self._admin("cleanup")
        except shell.CommandError as e:
            raise StageError(f"the sysroot '{self._sysroot}' was not cleaned up: {e}") from e

    def _booted(self, deployments: Sequence[Deployment]) -> Deployment:
        if self._is_booted:
            return self._really_booted(deployments)
        if not deployments:
            raise SysrootError(
                f"no deployment of os {self._os!r} in the sysroot '{self._sysroot}'",
                hint="deploy one, or set [pacman] sysroot and os",
            )
        return deployments[1 if self._awaits_reboot() and len(deployments) > 1 else 0]

    def _really_booted(self, deployments: Sequence[Deployment]) -> Deployment:
        for deployment in deployments:
            if deployment.booted:
                return deployment
        raise SysrootError(
            f"no deployment of os {self._os!r} in '{self._sysroot}' is booted",
            hint='run on the device itself, or set [pacman] booted = "staged" for a directory',
        )

    def _awaits_reboot(self) -> bool:
        return self._staged_here or self._reboot_awaited()

    def _deployments(self) -> tuple[Deployment, ...]:
        """Ask for this os' deployments, the one that boots next first.

        ``ostree admin status`` has no machine-readable form (2022.7, 2025.2); its lines
        are alike in both, and only ``ostree`` knows composefs, staged deployments and the
        inode of ``/``. The boot entries of ``/boot`` would tell the order alone.
        """
        try:
            printed = self._admin("status", timeout_s=self._deadlines.query).text
        except shell.CommandError as e:
            raise SysrootError(
                f"the OSTree sysroot '{self._sysroot}' cannot be read: {e}",
                hint="set [pacman] sysroot, and install ostree",
            ) from e
        lines = filter(None, map(DEPLOYMENT.fullmatch, printed.splitlines()))
        found = [
            Deployment(index, match["os"], match["commit"], booted=match["booted"] == "*")
            for index, match in enumerate(lines)
        ]
        os = self._os or _running_os(found)
        return tuple(deployment for deployment in found if deployment.os == os)

    def _os_name(self) -> str:
        return self._os or self._booted(self._deployments()).os

    def _replace(self, staged: Deployment, commit: str) -> None:
        """Make room for ``commit``, which removing a deployment would prune but for a ref."""
        try:
            self._repository.query("refs", "--force", "--create", PROTECTING_REF, commit)
        except shell.CommandError as e:
            raise StageError(f"commit {commit} was not deployed: {e}") from e
        self._undeploy(staged)

    def _release(self) -> None:
        """Drop the ref; when that fails `prune` does it later."""
        with suppress(shell.CommandError):
            self._repository.query("refs", "--delete", PROTECTING_REF)

    def _removable(self, commit: str) -> Deployment | None:
        deployments = self._deployments()
        if not deployments:
            return None
        booted = self._booted(deployments)
        return next((d for d in deployments if d.commit == commit and d != booted), None)

    def _deploy(self, commit: str) -> None:
        try:
            self._admin("deploy", "--os", self._os_name(), commit)
        except shell.CommandError as e:
            with suppress(StageError):
                self.prune()  # a checkout that was cut short
            raise StageError(
                f"commit {commit} was not deployed to '{self._sysroot}': {e}",
                hint="look at the free space of the sysroot and of /boot",
            ) from e
        self._staged_here = True

    def _undeploy(self, deployment: Deployment) -> None:
        try:
            self._admin("undeploy", str(deployment.index))
        except shell.CommandError as e:
            raise StageError(f"the deployment of {deployment.commit} was not removed: {e}") from e
        self._staged_here = False

    def _admin(self, verb: str, *arguments: str, timeout_s: float | None = None) -> shell.Finished:
        return shell.run(
            ["ostree", "admin", verb, "--sysroot", str(self._sysroot), *arguments],
            timeout_s=timeout_s or self._deadlines.deploy,
        )

    # --- what the repository holds -----------------------------------------------------

    def has_commit(self, commit: str) -> bool:
        """Whether the repository holds ``commit`` whole (not partial)."""
        return self._repository.has_commit(commit)

    def pull(self, repo: Path, commit: str, progress: Progress) -> None:
        """Copy ``commit`` from the bundle's ``repo``, checking every object's hash.

        Raises:
            PullError, NoSpaceError, StoreError: as `Repository.pull`.
        """
        self._repository.pull(repo, commit, progress)

    def firmware_version(self, commit: str) -> str | None:
        """Return ``bootfirmware_version`` of ``usr/lib/firmware/version.txt`` in ``commit``.

        Raises:
            BootFirmwareError: the file is there but holds no version, or cannot be read.
        """
        try:
            if not self._contains(commit, FIRMWARE_FILE):
                return None
            text = self._repository.query("cat", commit, f"/{FIRMWARE_FILE}").text
        except shell.CommandError as e:
            raise BootFirmwareError(f"'{FIRMWARE_FILE}' of commit {commit}: {e}") from e
        version = text.partition(FIRMWARE_MARKER)[2].strip()
        if not version:
            raise BootFirmwareError(
                f"'{FIRMWARE_FILE}' of commit {commit} has no line '{FIRMWARE_MARKER}<version>'"
            )
        return version

    def committed_utc(self, commit: str) -> datetime | None:
        """Return the commit's own timestamp; None when it is not here or has none."""
        if commit not in self._dates and (date := self._committed_utc(commit)):
            self._dates[commit] = date
        return self._dates.get(commit)

    def _committed_utc(self, commit: str) -> datetime | None:
        try:
            header = self._repository.query("show", commit).text.partition("\n\n")[0]
        except shell.CommandError:
            return None
        date = re.search(r"^Date: +(\S+ \S+ [+-][0-9]{4})$", header, re.MULTILINE)
        return datetime.strptime(date[1], "%Y-%m-%d %H:%M:%S %z") if date else None

    def _contains(self, commit: str, path: str) -> bool:
        """Look from the root down: ``ostree ls`` fails alike for "absent" and "broken"."""
        here = ""
        for name in path.split("/"):
            listed = self._repository.query("ls", "--nul-filenames-only", commit, here or "/").text
            here = f"{here}/{name}"
            if here not in listed.split("\0"):
                return False
        return True


def _running_os(deployments: Sequence[Deployment]) -> str:
    """Return the os of the booted deployment, else of the first; empty without any."""
    booted = (deployment.os for deployment in deployments if deployment.booted)
    return next(booted, deployments[0].os if deployments else "")
