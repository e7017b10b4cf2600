"""What every `Sysroot` must do. Subclasses provide the ``bench`` fixture."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import pytest

from agent.core.errors import BootFirmwareError, PullError, StageError
from agent.ports import Sysroot

ABSENT = "0" * 64
BUILT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Bench(Protocol):
    """A device with one deployment, a stick, and a power switch."""

    sysroot: Sysroot
    first: str

    def offer(self, firmware: str | None = None) -> tuple[Path, str]:
        """Put a new commit on the stick; return the stick's repository and the commit."""

    def reboot(self) -> None:
        """Boot the first deployment."""

    def roll_back_boot(self) -> None:
        """Boot the deployment before, as the boot loader does."""

    def deployed(self) -> Sequence[str]:
        """Return all deployments' commits, the one that boots next first."""


def nothing(_step: str, _done: int, _total: int) -> None:
    """Show nothing."""


def pulled(bench: Bench, firmware: str | None = None) -> str:
    repo, commit = bench.offer(firmware)
    bench.sysroot.pull(repo, commit, nothing)
    return commit


class SysrootContract:
    def test_a_fresh_device_runs_its_first_commit_and_nothing_is_staged(self, bench):
        assert bench.sysroot.booted_commit() == bench.first
        assert bench.sysroot.staged_commit() is None

    def test_a_pulled_commit_is_here_and_changes_no_boot(self, bench):
        repo, commit = bench.offer()
        before = bench.sysroot.has_commit(commit)

        bench.sysroot.pull(repo, commit, nothing)

        assert (before, bench.sysroot.has_commit(commit)) == (False, True)
        assert bench.deployed() == [bench.first]

    def test_pulling_twice_is_no_error(self, bench):
        repo, commit = bench.offer()
        bench.sysroot.pull(repo, commit, nothing)

        bench.sysroot.pull(repo, commit, nothing)

        assert bench.sysroot.has_commit(commit)

    def test_a_pull_ends_with_all_of_it_done(self, bench):
        repo, commit = bench.offer()
        seen = []

        bench.sysroot.pull(repo, commit, lambda *step: seen.append(step))

        step, done, total = seen[-1]
        assert step == "ostree"
        assert done == total > 0

    def test_a_commit_the_medium_lacks_is_a_pull_error(self, bench):
        repo, _ = bench.offer()

        with pytest.raises(PullError):
            bench.sysroot.pull(repo, ABSENT, nothing)

        assert not bench.sysroot.has_commit(ABSENT)

    def test_a_staged_commit_waits_for_the_reboot(self, bench):
        commit = pulled(bench)

        bench.sysroot.stage(commit)

        assert bench.sysroot.booted_commit() == bench.first
        assert bench.sysroot.staged_commit() == commit
        assert bench.deployed() == [commit, bench.first]

    def test_after_the_reboot_the_staged_commit_runs(self, bench):
        commit = pulled(bench)
        bench.sysroot.stage(commit)

        bench.reboot()

        assert bench.sysroot.booted_commit() == commit
        assert bench.sysroot.staged_commit() is None

    def test_staging_twice_is_staging_once(self, bench):
        commit = pulled(bench)
        bench.sysroot.stage(commit)

        bench.sysroot.stage(commit)

        assert bench.deployed() == [commit, bench.first]

    def test_a_second_staged_commit_replaces_the_first(self, bench):
        bench.sysroot.stage(pulled(bench))
        newer = pulled(bench)

        bench.sysroot.stage(newer)

        assert bench.sysroot.booted_commit() == bench.first
        assert bench.deployed() == [newer, bench.first]

    def test_staging_drops_what_is_neither_staged_nor_deployed(self, bench):
        unused, commit = pulled(bench), pulled(bench)

        bench.sysroot.stage(commit)

        assert not bench.sysroot.has_commit(unused)

    def test_staging_what_runs_takes_back_what_was_staged(self, bench):
        bench.sysroot.stage(pulled(bench))

        bench.sysroot.stage(bench.first)

        assert bench.sysroot.staged_commit() is None
        assert bench.deployed() == [bench.first]

    def test_staging_what_is_not_here_changes_nothing(self, bench):
        with pytest.raises(StageError):
            bench.sysroot.stage(ABSENT)

        assert bench.deployed() == [bench.first]
        assert bench.sysroot.staged_commit() is None

    def test_unstaging_takes_the_staged_commit_back(self, bench):
        commit = pulled(bench)
        bench.sysroot.stage(commit)

        bench.sysroot.unstage(commit)

        assert bench.sysroot.staged_commit() is None
        assert bench.deployed() == [bench.first]

    def test_what_runs_is_never_unstaged(self, bench):
        bench.sysroot.stage(pulled(bench))

        bench.sysroot.unstage(bench.first)

        assert bench.sysroot.booted_commit() == bench.first
        assert bench.deployed()[1] == bench.first

    def test_unstaging_what_is_not_deployed_is_no_error(self, bench):
        bench.sysroot.unstage(ABSENT)

        assert bench.deployed() == [bench.first]

    def test_the_version_before_stays_for_the_boot_loader(self, bench):
        bench.sysroot.stage(pulled(bench))

        bench.roll_back_boot()

        assert bench.sysroot.booted_commit() == bench.first

    def test_the_version_before_can_be_staged_again(self, bench):
        commit = pulled(bench)
        bench.sysroot.stage(commit)
        bench.reboot()

        bench.sysroot.stage(bench.first)

        assert bench.sysroot.booted_commit() == commit
        assert bench.sysroot.staged_commit() == bench.first

    def test_pruning_keeps_what_is_deployed_and_drops_the_rest(self, bench):
        staged, unused = pulled(bench), pulled(bench)
        bench.sysroot.stage(staged)

        bench.sysroot.prune()

        kept = [bench.sysroot.has_commit(c) for c in (bench.first, staged, unused)]
        assert kept == [True, True, False]

    def test_without_a_firmware_file_there_is_no_firmware_version(self, bench):
        assert bench.sysroot.firmware_version(pulled(bench)) is None

    def test_the_firmware_version_is_read_from_the_commit(self, bench):
        commit = pulled(bench, "bootfirmware_version=17\n")

        assert bench.sysroot.firmware_version(commit) == "17"

    def test_a_firmware_file_without_a_version_is_an_error(self, bench):
        commit = pulled(bench, "no version here\n")

        with pytest.raises(BootFirmwareError):
            bench.sysroot.firmware_version(commit)

    def test_a_commit_knows_when_it_was_built(self, bench):
        assert bench.sysroot.committed_utc(pulled(bench)) == BUILT

    def test_a_commit_that_is_not_here_has_no_time(self, bench):
        assert bench.sysroot.committed_utc(ABSENT) is None
