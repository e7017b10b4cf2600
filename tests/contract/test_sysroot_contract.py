"""The sysroot in memory and the real one keep one contract."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.adapters.ostree import OstreeSysroot
from tests.contract.sysroot_contract import BUILT, SysrootContract, pulled
from tests.fakes.sysroot import MemorySysroot
from tests.ostree_device import (
    BootedDevice,
    Device,
    make_device,
    simulate_boot_rollback,
    simulate_reboot,
)

STICK = Path("stick/ostree_repo")


class MemoryBench:
    def __init__(self) -> None:
        self.first = "1" * 64
        self.sysroot = MemorySysroot.running(self.first)
        self._made = 1

    def offer(self, firmware: str | None = None) -> tuple[Path, str]:
        self._made += 1
        commit = f"{self._made:064x}"
        self.sysroot.offer(STICK, commit)
        self.sysroot.built[commit] = BUILT
        if firmware is not None:
            self.sysroot.firmware[commit] = firmware
        return STICK, commit

    def reboot(self) -> None:
        self.sysroot.reboot()

    def roll_back_boot(self) -> None:
        self.sysroot.roll_back_boot()

    def deployed(self) -> Sequence[str]:
        return self.sysroot.deployments


class RealBench:
    def __init__(self, directory: Path, mode: str) -> None:
        self.device: Device = make_device(directory, mode=mode)
        self.first = self.device.commits[0]
        self._open()

    def offer(self, firmware: str | None = None) -> tuple[Path, str]:
        files = {} if firmware is None else {"usr/lib/firmware/version.txt": firmware.encode()}
        commit = self.device.new_commit(files)
        number = len(self.device.commits)
        repo = self.device.sysroot.parent / f"stick{number}/ostree_repo"
        return self.device.bundle_repo(repo, commit), commit

    def reboot(self) -> None:
        simulate_reboot(self.device)
        self._open()

    def roll_back_boot(self) -> None:
        simulate_boot_rollback(self.device)
        self._open()

    def deployed(self) -> Sequence[str]:
        return self.device.deployed()

    def _open(self) -> None:
        self.sysroot = OstreeSysroot(
            self.device.sysroot,
            os=self.device.os,
            booted=False,
            reboot_awaited=lambda: self.device.awaiting_reboot,
        )


class BootedBench(RealBench):
    """``ostree`` runs as on a machine that is booted from the sysroot."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "bare")
        self.machine = BootedDevice(self.device)

    def reboot(self) -> None:
        self.machine.boot(0)
        self._open()

    def roll_back_boot(self) -> None:
        self.machine.boot(1)
        self._open()

    def _open(self) -> None:
        self.sysroot = OstreeSysroot(self.device.sysroot, os=self.device.os)


class TestMemorySysroot(SysrootContract):
    @pytest.fixture
    def bench(self) -> MemoryBench:
        return MemoryBench()


@pytest.mark.needs_ostree
class TestOstreeSysroot(SysrootContract):
    @pytest.fixture(params=["bare", "bare-user-only"])
    def bench(self, tmp_path, request) -> RealBench:
        return RealBench(tmp_path, request.param)


@pytest.mark.needs_ostree
@pytest.mark.needs_root
class TestBootedOstreeSysroot(SysrootContract):
    @pytest.fixture
    def bench(self, tmp_path, monkeypatch) -> BootedBench:
        bench = BootedBench(tmp_path)
        monkeypatch.setenv("PATH", f"{bench.machine.programs}:{os.environ['PATH']}")
        return bench

    def test_after_a_boot_rollback_the_bad_deployment_is_first_until_it_is_unstaged(self, bench):
        """A boot loader does not tell ostree: the next boot would try the bad one again."""
        commit = pulled(bench)
        bench.sysroot.stage(commit)
        bench.roll_back_boot()
        before = bench.sysroot.staged_commit()

        bench.sysroot.unstage(commit)

        assert before == commit
        assert bench.sysroot.staged_commit() is None
        assert bench.deployed() == [bench.first]

    def test_an_update_keeps_the_booted_version_and_drops_the_one_before(self, bench):
        second = pulled(bench)
        bench.sysroot.stage(second)
        bench.reboot()
        third = pulled(bench)

        bench.sysroot.stage(third)

        assert bench.deployed() == [third, second]
