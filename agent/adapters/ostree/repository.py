"""The device's repository: what it holds, how much still fits, and how a commit gets in."""

import errno
import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.adapters import files, shell
from agent.adapters.ostree.keyfile import KeyFileError, read_config
from agent.adapters.ostree.source import Source, open_source, private_repo
from agent.adapters.ostree.watch import STEP, Deadlines, StandstillError, Watch
from agent.core.errors import AgentError, NoSpaceError, PullError, StoreError
from agent.log import get_logger
from agent.ports import Progress

log = get_logger()

RESERVED_PERCENT = 3  # libostree's core.min-free-space-percent when the config has none
REQUIRED_EXTRA_BYTES = 40_960  # what the reference reports as missing beyond what there is
# ostree says it in words alone. ENOSPC and EDQUOT in LC_ALL=C.UTF-8, and libostree's own limit.
READ_ONLY = "Read-only file system"  # EROFS
NO_SPACE = ("No space left on device", "Disk quota exceeded", "would be exceeded, at least")


@dataclass(frozen=True, slots=True)
class Space:
    """How much a pull may still fill (reference-behaviour §7.5)."""

    path: Path
    size_bytes: int
    free_bytes: int
    reserved_percent: int
    reserved_bytes: int
    free_inodes: int | None

    @property
    def available_bytes(self) -> int:
        """What is free beyond the reserve, never negative."""
        return max(0, self.free_bytes - self.reserved_bytes)

    def __str__(self) -> str:
        """Give the reference's figures."""
        return (
            f"required: more than {self.available_bytes + REQUIRED_EXTRA_BYTES}B, "
            f"available: {self.available_bytes}B at '{self.path}', size: {self.size_bytes}B, "
            f"free: {self.free_bytes}B, reserved: {self.reserved_bytes}B "
            f"({self.reserved_percent}% by core.min-free-space-percent)"
            + ("" if self.free_inodes is None else f", free inodes: {self.free_inodes}")
        )


class Repository:
    """The repository ``<sysroot>/ostree/repo``.

    Args:
        path: where it is.
        reserved_percent: written to its config before a pull; None keeps what is there.
        deadlines: how long ``ostree`` may take.
    """

    def __init__(self, path: Path, reserved_percent: int | None, deadlines: Deadlines) -> None:
        self.path = path
        self._reserved_percent = reserved_percent
        self._deadlines = deadlines

    def query(self, verb: str, *arguments: str) -> shell.Finished:
        """Run an ``ostree`` command that only reads.

        Raises:
            shell.CommandError: it failed.
        """
        return self._run(verb, *arguments, timeout_s=self._deadlines.query)

    def has_commit(self, commit: str) -> bool:
        """Whether ``commit`` is here whole (not partial)."""
        partial = self.path / "state" / f"{commit}.commitpartial"
        found = self.path / "objects" / commit[:2] / f"{commit[2:]}.commit"
        return found.is_file() and not partial.exists()

    def pull(self, repo: Path, commit: str, progress: Progress) -> None:
        """Copy ``commit`` from the bundle's ``repo``, checking every object's hash.

        A commit that is here already may have been brought by a program that trusts its
        source: it is checked, and what does not match is fetched anew.

        Raises:
            PullError: the medium's repository is not usable, or an object did not match.
            NoSpaceError: too little space, by the reference's formula.
            StoreError: the device's repository cannot be read or written.
        """
        self._reserve()
        self._demand_space()
        if self.has_commit(commit) and self._is_sound():
            return
        with open_source(repo, self.path) as source:
            watch = Watch(progress, source.missing_bytes, self._deadlines.standstill)
            self._pull_from(source, commit, watch)
        if not self.has_commit(commit):
            raise PullError(f"'{repo}' holds commit {commit} in part only")
        progress(STEP, source.missing_bytes, source.missing_bytes)

    def _pull_from(self, source: Source, commit: str, watch: Watch) -> None:
        timeout_s = self._deadlines.pull
        try:
            with private_repo(source) as ours:
                self._run(
                    "pull-local", "--untrusted", str(ours), commit,
                    timeout_s=timeout_s, watch=watch,
                )  # fmt: skip
        except (shell.CommandError, StandstillError) as e:
            failure = self._pull_failure(commit, e)
            if isinstance(failure, NoSpaceError):
                self._give_space_back()
            raise failure from e
        except OSError as e:  # of the private repository
            raise StoreError(f"no temporary directory for the pull: {e}") from e

    def _pull_failure(self, commit: str, cause: Exception) -> AgentError:
        """Tell whose fault it was: the space, the device's repository, or the stick."""
        complaint = getattr(cause, "stderr", "")
        if any(words in complaint for words in NO_SPACE):
            return NoSpaceError(f"commit {commit} does not fit: {complaint}; {self._space()}")
        if isinstance(cause, shell.NotInstalledError) or not self._takes_files(complaint):
            return StoreError(f"the device's repository '{self.path}' cannot take it: {cause}")
        return PullError(
            f"commit {commit} could not be copied from the medium: {cause}",
            hint="copy the bundle to the medium again",
        )

    def _takes_files(self, complaint: str) -> bool:
        """Try it. A read-only sysroot proves nothing: ``ostree`` remounts it for itself."""
        try:
            with tempfile.TemporaryFile(dir=self.path / "tmp"):
                return True
        except OSError as e:
            return e.errno == errno.EROFS and READ_ONLY not in complaint

    def _give_space_back(self) -> None:
        """Drop what a pull had copied before the disk was full.

        libostree keeps it for the next attempt and clears it away only at its own limit,
        not at the kernel's. What a running process uses is locked and stays.
        """
        for staging in filter(Path.is_dir, (self.path / "tmp").glob("staging-*")):
            lock_file = staging.with_name(f"{staging.name}-lock")
            with suppress(OSError), lock_file.open("a+b") as lock:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(staging)
                lock_file.unlink()

    def _is_sound(self) -> bool:
        """Check all that is here; remove what does not match its hash."""
        try:
            self._run("fsck", "--quiet", "--all", "--delete", timeout_s=self._deadlines.pull)
        except shell.CommandError as e:
            log.warning("ostree.corruption_found", repo=str(self.path), complaint=e.stderr)
            return False
        return True

    def _run(
        self, verb: str, *arguments: str, timeout_s: float, watch: Watch | None = None
    ) -> shell.Finished:
        command = ["ostree", verb, "--repo", str(self.path), *arguments]
        return shell.run(command, timeout_s=timeout_s, watch=watch)

    def _reserve(self) -> None:
        """Let libostree keep the configured reserve, as the reference does at its start."""
        wanted = self._reserved_percent
        if wanted is None or wanted == self._configured_percent():
            return
        try:
            self.query("config", "set", "core.min-free-space-percent", str(wanted))
        except shell.CommandError as e:
            raise StoreError(f"the config of '{self.path}' cannot be written: {e}") from e

    def _configured_percent(self) -> int:
        try:
            config = read_config(self.path)
            return config.getint("core", "min-free-space-percent", fallback=RESERVED_PERCENT)
        except (OSError, files.TooLargeError, files.NotRegularError, KeyFileError, ValueError) as e:
            raise StoreError(
                f"the config of the device's repository '{self.path}' cannot be read: {e}"
            ) from e

    def _demand_space(self) -> None:
        space = self._space()
        if space.available_bytes == 0:
            raise NoSpaceError(
                f"no space left for an update: {space}", hint="free space on the device"
            )
        if space.free_inodes == 0:
            raise NoSpaceError(
                f"no file can be made on the volume of '{self.path}': its inodes are used up",
                hint="remove files from it; 'df -i' shows how many it has",
            )

    def _space(self) -> Space:
        percent = self._configured_percent()
        try:
            st = os.statvfs(self.path)
        except OSError as e:
            raise StoreError(f"'{self.path}' cannot be read: {e.strerror}") from e
        free_blocks = st.f_bfree if os.geteuid() == 0 else st.f_bavail
        return Space(
            path=self.path,
            size_bytes=st.f_bsize * st.f_blocks,
            free_bytes=st.f_bsize * free_blocks,
            reserved_percent=percent,
            reserved_bytes=st.f_bsize * -(-st.f_blocks * percent // 100),
            free_inodes=files.free_inodes(st),
        )
