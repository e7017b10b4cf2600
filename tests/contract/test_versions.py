"""What every Versions must do; ``sql.db`` and the one in memory."""

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.adapters.sotadb import SotaDatabase, SotaVersions
from agent.core.target import INITIAL_NAME, AppRef, Target, target_from_custom, unknown_target
from agent.ports import Versions
from tests.fakes.versions import MemoryVersions

HARDWARE_ID = "raspberrypi4-64"
WEB = AppRef("web", "hub.example.org/factory/web@sha256:" + "c" * 64)
DB = AppRef("db", "hub.example.org/factory/db@sha256:" + "d" * 64)


def a_target(number: int, *apps: AppRef, commit: str = "") -> Target:
    custom = {
        "version": str(number),
        "targetFormat": "OSTREE",
        "hardwareIds": [HARDWARE_ID],
        "tags": ["main"],
        "docker_compose_apps": {app.name: {"uri": app.uri} for app in apps},
    }
    return target_from_custom(f"lmp-{number}", commit or f"{number:064x}", custom)


def pend(versions: Versions, target: Target, *, needs_reboot: bool = True) -> None:
    versions.save_pending(target, needs_reboot=needs_reboot, correlation_id=f"{target.version}-id")


class VersionsContract:
    """Subclasses provide ``versions`` and ``reopen``: the same after a power cut."""

    def test_the_hardware_id_is_known(self, versions: Versions) -> None:
        assert versions.hardware_id() == HARDWARE_ID

    def test_nothing_is_known_of_a_new_device(self, versions: Versions) -> None:
        assert unknown_target("a" * 64) == versions.current("a" * 64)
        assert versions.pending() is None
        assert not versions.reboot_needed()
        assert not versions.has_failed(a_target(1))
        assert versions.rollback_target(a_target(1)) is None

    def test_an_update_from_staging_to_running(
        self, versions: Versions, reopen: Callable[[], Versions]
    ) -> None:
        versions.save_current(a_target(1, WEB))
        pend(versions, a_target(2, WEB, DB))
        staged = reopen()
        assert a_target(2, WEB, DB) == staged.pending()
        assert a_target(1, WEB) == staged.current(a_target(1).commit)
        assert staged.reboot_needed()

        staged.save_current(a_target(2, WEB, DB))

        done = reopen()
        assert a_target(2, WEB, DB) == done.current(a_target(2).commit)
        assert done.pending() is None
        assert not done.reboot_needed()
        assert not done.has_failed(a_target(2))

    def test_an_update_that_failed(
        self, versions: Versions, reopen: Callable[[], Versions]
    ) -> None:
        versions.save_current(a_target(1))
        pend(versions, a_target(2))
        assert not versions.has_failed(a_target(2))

        versions.save_failed(a_target(2))

        after = reopen()
        assert after.has_failed(a_target(2))
        assert not after.has_failed(a_target(1))
        assert after.pending() is None
        assert not after.reboot_needed()
        assert a_target(1) == after.current(a_target(1).commit)
        assert a_target(1) == after.rollback_target(a_target(2))

    def test_a_failed_target_that_is_tried_again_has_not_failed(self, versions: Versions) -> None:
        versions.save_failed(a_target(2))
        pend(versions, a_target(2))

        assert not versions.has_failed(a_target(2))

    def test_a_target_that_succeeded_at_last_has_not_failed(self, versions: Versions) -> None:
        versions.save_failed(a_target(2))
        versions.save_current(a_target(3))
        versions.save_current(a_target(2))

        assert not versions.has_failed(a_target(2))

    def test_the_way_back_is_the_newest_that_succeeded(self, versions: Versions) -> None:
        versions.save_current(a_target(1))
        versions.save_current(a_target(2))
        versions.save_failed(a_target(3))
        versions.save_failed(a_target(4))

        assert a_target(2) == versions.rollback_target(a_target(4))

    def test_the_way_back_is_never_the_target_itself(self, versions: Versions) -> None:
        versions.save_current(a_target(1))
        versions.save_current(a_target(2))

        assert a_target(1) == versions.rollback_target(a_target(2))

    def test_only_one_target_is_pending(self, versions: Versions) -> None:
        pend(versions, a_target(2))
        pend(versions, a_target(3), needs_reboot=False)

        assert a_target(3) == versions.pending()
        assert not versions.reboot_needed()
        versions.save_current(a_target(3))
        assert versions.pending() is None

    def test_saving_twice_is_saving_once(self, versions: Versions) -> None:
        versions.save_current(a_target(1))
        pend(versions, a_target(2))
        pend(versions, a_target(2))
        assert a_target(2) == versions.pending()
        versions.save_failed(a_target(2))
        versions.save_failed(a_target(2))
        assert versions.has_failed(a_target(2))
        versions.save_current(a_target(1))
        versions.save_current(a_target(1))

        assert a_target(1) == versions.current(a_target(1).commit)

    def test_new_apps_of_the_same_target_are_remembered(self, versions: Versions) -> None:
        versions.save_current(a_target(1, WEB))
        pend(versions, a_target(1, WEB, DB), needs_reboot=False)

        assert a_target(1, WEB, DB) == versions.pending()

    def test_a_commit_two_targets_share_is_the_current_ones(self, versions: Versions) -> None:
        commit = "e" * 64
        versions.save_current(a_target(1, WEB, commit=commit))
        versions.save_failed(a_target(2, DB, commit=commit))

        assert a_target(1, WEB, commit=commit) == versions.current(commit)

    def test_without_a_current_one_the_newest_with_the_commit_counts(
        self, versions: Versions
    ) -> None:
        versions.save_current(a_target(1))
        pend(versions, a_target(2))

        assert a_target(2) == versions.current(a_target(2).commit)

    def test_what_is_booted_first_becomes_the_initial_target(
        self, versions: Versions, reopen: Callable[[], Versions]
    ) -> None:
        versions.ensure_initial("a" * 64, [WEB])
        versions.ensure_initial("a" * 64, [])

        initial = reopen().current("a" * 64)
        assert initial.name == INITIAL_NAME
        assert initial.apps == (WEB,)
        assert initial.hardware_ids == (HARDWARE_ID,)
        assert initial.version == -1
        assert initial == versions.rollback_target(a_target(2))

    def test_a_known_target_does_not_become_initial(self, versions: Versions) -> None:
        versions.save_current(a_target(1))
        versions.ensure_initial(a_target(1).commit, [])

        assert a_target(1) == versions.current(a_target(1).commit)

    def test_a_commit_somebody_booted_by_hand_becomes_initial(self, versions: Versions) -> None:
        versions.save_current(a_target(1))
        versions.ensure_initial("f" * 64, [])

        assert versions.current("f" * 64).name == INITIAL_NAME


class TestMemoryVersions(VersionsContract):
    @pytest.fixture
    def versions(self) -> Versions:
        return MemoryVersions(HARDWARE_ID)

    @pytest.fixture
    def reopen(self, versions: Versions) -> Callable[[], Versions]:
        return lambda: versions


class TestSotaVersions(VersionsContract):
    @pytest.fixture
    def versions(self, tmp_path: Path) -> Versions:
        database = SotaDatabase(tmp_path / "sql.db")
        database.register(HARDWARE_ID)
        return SotaVersions(database)

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Callable[[], Versions]:
        return lambda: SotaVersions(SotaDatabase(tmp_path / "sql.db"))
