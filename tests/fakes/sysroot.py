"""A sysroot in memory, with the rules of the real one (``tests/contract``)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from agent.core.errors import (
    BootFirmwareError,
    NoSpaceError,
    PullError,
    StageError,
    SysrootError,
)
from agent.ports import Progress


def apply(change: Callable[[], None]) -> None:
    """Let an effect happen; a World burns its fuse here instead."""
    change()


@dataclass
class MemorySysroot:
    """Deployments and a repository of a device that is not there.

    Attributes:
        deployments: commits, the one that boots next first; never the same one twice.
        booted: commit that runs; None for a machine that was not booted from OSTree.
        commits: what the device's repository holds whole.
        offered: repository of a medium to the commits it carries whole.
        corrupt: commits of media of which an object does not match its hash.
        firmware: commit to the content of its boot firmware file.
        built: commit to its timestamp.
        full: whether the device has no space left.
        effect: carries out each change.
    """

    deployments: list[str]
    booted: str | None
    commits: set[str] = field(default_factory=set)
    offered: dict[Path, set[str]] = field(default_factory=dict)
    corrupt: set[str] = field(default_factory=set)
    firmware: dict[str, str] = field(default_factory=dict)
    built: dict[str, datetime] = field(default_factory=dict)
    full: bool = False
    effect: Callable[[Callable[[], None]], None] = apply

    @classmethod
    def running(cls, commit: str) -> "MemorySysroot":
        """Return a device that runs ``commit`` and holds nothing else."""
        return cls([commit], commit, {commit})

    def booted_commit(self) -> str:
        if self.booted is None:
            raise SysrootError("no deployment is booted")
        return self.booted

    def staged_commit(self) -> str | None:
        first = self.deployments[0]
        return None if first == self.booted_commit() else first

    def has_commit(self, commit: str) -> bool:
        return commit in self.commits

    def pull(self, repo: Path, commit: str, progress: Progress) -> None:
        if self.full:
            raise NoSpaceError("no space left for an update")
        if commit in self.commits:
            return
        if commit not in self.offered.get(repo, ()) or commit in self.corrupt:
            raise PullError(f"commit {commit} could not be copied from the medium")
        self.effect(lambda: self.commits.add(commit))
        progress("ostree", 1, 1)

    def stage(self, commit: str) -> None:
        booted = self.booted_commit()
        if self.deployments[0] == commit:
            return
        if commit not in self.commits:
            raise StageError(f"commit {commit} was not deployed: it is not here")
        kept = [] if commit == booted else [commit]
        self.effect(lambda: self._set([*kept, booted]))

    def unstage(self, commit: str) -> None:
        booted = self.booted_commit()
        if commit != booted and commit in self.deployments:
            self.effect(lambda: self._set([c for c in self.deployments if c != commit]))

    def prune(self) -> None:
        self.effect(lambda: self.commits.intersection_update(self.deployments))

    def firmware_version(self, commit: str) -> str | None:
        text = self.firmware.get(commit)
        if text is None:
            return None
        version = text.partition("bootfirmware_version=")[2].strip()
        if not version:
            raise BootFirmwareError(f"the boot firmware file of {commit} has no version")
        return version

    def committed_utc(self, commit: str) -> datetime | None:
        return self.built.get(commit) if commit in self.commits else None

    # --- what a person, a stick or the boot loader does -----------------------------------

    def offer(self, repo: Path, commit: str) -> None:
        """Put ``commit`` on a medium."""
        self.offered.setdefault(repo, set()).add(commit)

    def reboot(self) -> None:
        """Boot the first deployment."""
        self.booted = self.deployments[0]

    def roll_back_boot(self) -> None:
        """Boot as the boot loader does when the first deployment did not come up."""
        self.booted = self.deployments[-1]

    def _set(self, deployments: list[str]) -> None:
        """Swap the deployments; what none of them needs goes at once, as with libostree."""
        self.deployments = deployments
        self.commits &= set(deployments)
