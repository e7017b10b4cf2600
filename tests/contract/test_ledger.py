"""What every Ledger must do; the one on the disk and the one in memory."""

import json
import stat
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from agent.adapters.ledger import FileLedger
from agent.core.bundletype import BundleType
from agent.core.errors import StateError
from agent.core.policy import quarantine_key
from agent.core.promise import Phase, Promise, PromiseKind
from agent.core.target import AppRef, Target, target_from_custom
from agent.ports import Ledger
from tests.fakes.ledger import MemoryLedger

URI = "hub.example.org/factory/web@sha256:" + "c" * 64
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def a_target(name: str = "board-lmp-2", commit: str = "a" * 64) -> Target:
    custom = {
        "version": "2",
        "targetFormat": "OSTREE",
        "hardwareIds": ["board"],
        "docker_compose_apps": {"web": {"uri": URI}},
        "note": "später",
    }
    return target_from_custom(name, commit, custom)


def a_promise(**changes: object) -> Promise:
    promise = Promise(
        target=a_target(),
        phase=Phase.COPYING,
        boot_id="boot-1",
        needs_boot=True,
        previous_commit="b" * 64,
        attempt="attempt-7",
        fs_uuid="1234-ABCD",
        started_utc="2026-01-02T03:04:05Z",
    )
    return replace(promise, **changes)  # type: ignore[arg-type]


class LedgerContract:
    """Subclasses provide ``ledger`` and ``reopen``: the same ledger after a power cut."""

    def test_there_is_no_promise_before_the_first(self, ledger: Ledger) -> None:
        assert ledger.promised() is None

    @pytest.mark.parametrize("phase", list(Phase))
    @pytest.mark.parametrize("kind", list(PromiseKind))
    def test_a_promise_is_there_after_reopening(
        self, ledger: Ledger, reopen: Callable[[], Ledger], phase: Phase, kind: PromiseKind
    ) -> None:
        promise = a_promise(phase=phase, kind=kind, failed="board-lmp-3", needs_boot=False)

        ledger.promise(promise)

        assert promise == reopen().promised()

    def test_the_last_promise_counts(self, ledger: Ledger) -> None:
        ledger.promise(a_promise())
        ledger.promise(a_promise(phase=Phase.STAGED))

        assert a_promise(phase=Phase.STAGED) == ledger.promised()

    def test_a_forgotten_promise_stays_forgotten(
        self, ledger: Ledger, reopen: Callable[[], Ledger]
    ) -> None:
        ledger.promise(a_promise())
        ledger.forget()
        ledger.forget()

        assert reopen().promised() is None

    def test_trusted_time_only_moves_forward(
        self, ledger: Ledger, reopen: Callable[[], Ledger]
    ) -> None:
        assert ledger.last_seen_utc() is None

        ledger.saw_utc(NOON)
        ledger.saw_utc(NOON - timedelta(days=1))
        ledger.saw_utc((NOON - timedelta(hours=1)).astimezone(timezone(timedelta(hours=5))))

        assert reopen().last_seen_utc() == NOON

    def test_the_first_bundle_fixes_the_type(
        self, ledger: Ledger, reopen: Callable[[], Ledger]
    ) -> None:
        assert ledger.bundle_type() is None

        ledger.fix_bundle_type(BundleType.PROD)
        ledger.fix_bundle_type(BundleType.CI)

        assert BundleType.PROD is reopen().bundle_type()

    def test_quarantine_names_the_reason(
        self, ledger: Ledger, reopen: Callable[[], Ledger]
    ) -> None:
        ledger.quarantine(a_target(), "app_rollback")

        assert {quarantine_key(a_target()): "app_rollback"} == reopen().quarantined()

    def test_the_same_content_is_quarantined_once(self, ledger: Ledger) -> None:
        ledger.quarantine(a_target(), "boot_rollback")
        ledger.quarantine(a_target(), "app_rollback")

        assert list(ledger.quarantined().values()) == ["app_rollback"]

    def test_other_content_of_the_same_name_is_free(self, ledger: Ledger) -> None:
        ledger.quarantine(a_target(), "boot_rollback")
        other_commit = a_target(commit="d" * 64)
        other_apps = a_target().with_apps((AppRef("web", URI[:-64] + "e" * 64),))

        held = ledger.quarantined()

        assert quarantine_key(other_commit) not in held
        assert quarantine_key(other_apps) not in held

    def test_one_target_is_forgiven(self, ledger: Ledger, reopen: Callable[[], Ledger]) -> None:
        ledger.quarantine(a_target("two"), "boot_rollback")
        ledger.quarantine(a_target("three"), "boot_rollback")

        assert ledger.forgive("two") == ("two",)
        assert [quarantine_key(a_target("three"))] == list(reopen().quarantined())

    def test_all_are_forgiven(self, ledger: Ledger, reopen: Callable[[], Ledger]) -> None:
        ledger.quarantine(a_target("two"), "boot_rollback")
        ledger.quarantine(a_target("three"), "boot_rollback")

        assert ledger.forgive() == ("three", "two")
        assert reopen().quarantined() == {}

    def test_there_is_nothing_to_forgive(self, ledger: Ledger) -> None:
        assert ledger.forgive("nobody") == ()


class TestMemoryLedger(LedgerContract):
    @pytest.fixture
    def ledger(self) -> Ledger:
        return MemoryLedger()

    @pytest.fixture
    def reopen(self, ledger: Ledger) -> Callable[[], Ledger]:
        return lambda: ledger


class TestFileLedger(LedgerContract):
    @pytest.fixture
    def ledger(self, tmp_path: Path) -> Ledger:
        return FileLedger(tmp_path / "usb-update")

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Callable[[], Ledger]:
        return lambda: FileLedger(tmp_path / "usb-update")

    def test_nobody_else_reads_it(self, ledger: Ledger, tmp_path: Path) -> None:
        ledger.promise(a_promise())

        directory = tmp_path / "usb-update"
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE((directory / "pending").stat().st_mode) == 0o600

    @pytest.mark.parametrize(
        "damage",
        [
            b"",
            b"\xff",
            b"[]",
            b"{}",
            b'{"format": 2}',
            b'{"format": 1}',
            b"[" * 100_000,
            b'{"format": 1, "targets": [], "last_seen_utc": "noon", "bundle_type": "x"}',
            b'{"format": 1, "targets": {"a": 1}, "last_seen_utc": "2026-01-01"}',
        ],
    )
    @pytest.mark.parametrize("name", ["pending", "clock", "bundle-type", "quarantine"])
    def test_damage_is_told_not_guessed_away(
        self, ledger: Ledger, tmp_path: Path, name: str, damage: bytes
    ) -> None:
        read = {
            "pending": ledger.promised,
            "clock": ledger.last_seen_utc,
            "bundle-type": ledger.bundle_type,
            "quarantine": ledger.quarantined,
        }
        (tmp_path / "usb-update").mkdir()
        (tmp_path / "usb-update" / name).write_bytes(damage)

        with pytest.raises(StateError) as caught:
            read[name]()

        assert str(tmp_path / "usb-update" / name) in caught.value.message
        assert caught.value.hint

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("phase", "dreaming"),
            ("needs_boot", "yes"),
            ("boot_id", None),
            ("target", {}),
            ("target", {"name": "n", "commit": "../../etc", "apps": {}, "custom": {}}),
            ("target", {"name": "n", "commit": "a" * 64, "apps": {"a": 1}, "custom": {}}),
            ("target", {"name": "n", "commit": "a" * 64, "apps": {}, "custom": []}),
        ],
    )
    def test_a_promise_with_one_wrong_field_is_damaged(
        self, ledger: Ledger, tmp_path: Path, field: str, value: object
    ) -> None:
        ledger.promise(a_promise())
        path = tmp_path / "usb-update" / "pending"
        path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))

        with pytest.raises(StateError, match="is damaged"):
            ledger.promised()

    def test_a_link_in_place_of_the_promise_is_refused(
        self, ledger: Ledger, tmp_path: Path
    ) -> None:
        (tmp_path / "usb-update").mkdir()
        (tmp_path / "usb-update" / "pending").symlink_to("/etc/hostname")

        with pytest.raises(StateError):
            ledger.promised()

    def test_a_directory_that_cannot_be_made_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")

        with pytest.raises(StateError, match="cannot be used"):
            FileLedger(tmp_path / "file" / "usb-update").promise(a_promise())

    def test_quarantine_has_an_end(self, ledger: Ledger) -> None:
        for number in range(203):
            ledger.quarantine(a_target(f"n{number}"), "boot_rollback")

        held = ledger.quarantined()

        assert len(held) == 200
        assert quarantine_key(a_target("n202")) in held
        assert quarantine_key(a_target("n0")) not in held
