"""What the device decides about a verified bundle."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from agent.core.bundle import Inventory
from agent.core.outcome import InstallExit
from agent.core.policy import (
    CLOCK_LEAP_LIMIT,
    DeviceFacts,
    Plan,
    Refusal,
    carried,
    plan_install,
    quarantine_key,
    required_apps,
    select_target,
    time_to_remember,
    trusted_now,
    wanted_apps,
)
from agent.core.target import AppRef, Target, target_from_custom, unknown_target

HW = "raspberrypi4-64"
OLD_COMMIT, NEW_COMMIT = "1" * 64, "2" * 64
SHOP = AppRef("shop", f"hub.local/factory/shop@sha256:{'a' * 64}")
DB = AppRef("db", f"hub.local/factory/db@sha256:{'b' * 64}")


def target(version: int = 2, **changes: object) -> Target:
    made = Target(f"lmp-{version}", version, NEW_COMMIT, (HW,), ("main",))
    return replace(made, **changes)


OLD = target(1, commit=OLD_COMMIT)


def device(**changes: object) -> DeviceFacts:
    return replace(DeviceFacts(HW, ("main",), OLD, OLD_COMMIT), **changes)


def stick(*targets: Target) -> Inventory:
    return Inventory(
        frozenset(t.commit for t in targets), frozenset(a.uri for t in targets for a in t.apps)
    )


def choose(*targets: Target, on: DeviceFacts | None = None, **how: object) -> Target | Refusal:
    return select_target(targets, stick(*targets), on or device(), **how)


def refusal_of(decision: object) -> Refusal:
    assert isinstance(decision, Refusal)
    return decision


def test_the_highest_version_is_chosen() -> None:
    assert target(10) == choose(target(9), target(10), target(2))


def test_a_newer_target_without_its_content_gives_way_to_a_complete_one() -> None:
    newer = target(3, commit="3" * 64)

    chosen = select_target((target(2), newer), stick(target(2)), device())

    assert target(2) == chosen


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"target_format": "BINARY"}, "format_mismatch"),
        ({"tags": ("devel",)}, "tag_mismatch"),
        ({"tags": ()}, "tag_mismatch"),
        ({"hardware_ids": ("other",)}, "hardware_id_mismatch"),
        ({"hardware_ids": (HW, "other")}, "hardware_id_mismatch"),
        ({"hardware_ids": ()}, "hardware_id_mismatch"),
    ],
)
def test_a_target_for_another_device_is_refused(changes: dict[str, object], reason: str) -> None:
    refusal = refusal_of(choose(target(**changes)))

    assert (InstallExit.NO_MATCHING_TARGET, reason) == (refusal.exit, refusal.reason)


def test_a_device_without_tags_takes_any() -> None:
    assert target(2, tags=("x",)) == choose(target(2, tags=("x",)), on=device(tags=()))


def test_missing_content_is_told_before_a_foreign_target() -> None:
    foreign = target(3, hardware_ids=("other",))

    refusal = refusal_of(select_target((foreign, target(2)), Inventory(), device()))

    assert (InstallExit.CONTENT_MISSING, "commit_missing") == (refusal.exit, refusal.reason)


def test_one_missing_required_app_refuses_the_target() -> None:
    two = target(2, apps=(DB, SHOP))

    refusal = refusal_of(select_target((two,), stick(target(2, apps=(DB,))), device()))

    assert (8, "app_missing") == (refusal.exit, refusal.reason)
    assert "shop" in refusal.message


def test_an_app_outside_the_shortlist_need_not_be_there() -> None:
    two = target(2, apps=(DB, SHOP))
    only_db = device(compose_apps=("db",))

    assert two == select_target((two,), stick(target(2, apps=(DB,))), only_db)
    assert (DB,) == wanted_apps(two, only_db)


def test_reset_apps_are_kept_in_the_store_but_not_run() -> None:
    two = target(2, apps=(DB, SHOP))
    facts = device(compose_apps=("db",), reset_apps=("*",))

    assert (DB,) == wanted_apps(two, facts)
    assert (DB, SHOP) == required_apps(two, facts)


@pytest.mark.parametrize(
    ("fetched", "expected"),
    [(None, (DB, SHOP)), ((), ()), (("shop",), (SHOP,)), (("nothing",), ())],
)
def test_the_bundle_carries_what_was_fetched_for_it(
    fetched: tuple[str, ...] | None, expected: tuple[AppRef, ...]
) -> None:
    custom = {"docker_compose_apps": {a.name: {"uri": a.uri} for a in (DB, SHOP)}}
    two = replace(target_from_custom("lmp-2", NEW_COMMIT, custom), fetched=fetched)

    assert expected == carried(two).apps


def test_a_device_without_apps_ignores_them() -> None:
    two = target(2, apps=(SHOP,))

    assert two == select_target((two,), stick(target(2)), device(wants_apps=False))


def test_a_named_target_is_the_only_candidate() -> None:
    assert target(2) == choose(target(2), target(3), name="lmp-2")


def test_a_name_the_bundle_does_not_list_is_no_match() -> None:
    refusal = refusal_of(choose(target(2), name="lmp-7"))

    assert (6, "target_not_listed") == (refusal.exit, refusal.reason)
    assert "lmp-2" in refusal.message


def test_an_empty_bundle_is_no_match() -> None:
    assert refusal_of(choose()).exit == 6


def test_the_automatic_path_does_not_retry_what_rolled_back() -> None:
    facts = device(quarantined={quarantine_key(target(2)): "the new rootfs did not boot"})

    assert refusal_of(choose(target(2), on=facts, automatic=True)).reason == "quarantined"
    assert target(2) == choose(target(2), on=facts)


def test_other_content_under_the_same_name_is_not_quarantined() -> None:
    facts = device(quarantined={quarantine_key(target(2)): "x"})
    rebuilt = target(2, commit="3" * 64)

    assert rebuilt == choose(rebuilt, on=facts, automatic=True)


def test_a_new_commit_needs_a_boot() -> None:
    assert Plan(target(2), (), needs_boot=True) == plan_install(
        target(2), device(), apps_in_sync=True
    )


def test_new_apps_alone_need_none() -> None:
    apps_only = target(2, commit=OLD_COMMIT, apps=(SHOP,))

    plan = plan_install(apps_only, device(), apps_in_sync=False)

    assert Plan(apps_only, (SHOP,), needs_boot=False) == plan


def test_what_runs_already_is_nothing_to_do() -> None:
    assert refusal_of(plan_install(OLD, device(), apps_in_sync=True)).exit == 0


def test_what_runs_with_stopped_apps_is_installed_again() -> None:
    assert isinstance(plan_install(OLD, device(), apps_in_sync=False), Plan)


def test_a_lower_version_needs_force() -> None:
    facts = device(current=target(5))

    assert refusal_of(plan_install(target(4), facts, apps_in_sync=True)).exit == 102
    assert isinstance(plan_install(target(4), facts, apps_in_sync=True, force=True), Plan)


def test_anything_is_an_upgrade_of_the_unknown() -> None:
    facts = device(current=unknown_target(OLD_COMMIT))

    assert isinstance(plan_install(target(0), facts, apps_in_sync=True), Plan)


def test_unconfirmed_boot_firmware_blocks_a_new_rootfs_only() -> None:
    facts = device(firmware_update_pending=True)
    apps_only = target(2, commit=OLD_COMMIT)

    assert refusal_of(plan_install(target(2), facts, apps_in_sync=True)).exit == 90
    assert isinstance(plan_install(apps_only, facts, apps_in_sync=True), Plan)


T0 = datetime(2026, 1, 2, tzinfo=UTC)


def test_the_time_is_never_earlier_than_what_is_past() -> None:
    past = datetime(1970, 1, 1, tzinfo=UTC)

    assert trusted_now(past, (None, T0)) == T0
    assert trusted_now(T0, (past, None)) == T0


def test_a_clock_in_the_far_future_does_not_poison_the_lower_bound() -> None:
    future = datetime(2100, 1, 1, tzinfo=UTC)

    assert time_to_remember(future, (T0, None)) == T0 + CLOCK_LEAP_LIMIT
    assert time_to_remember(T0 + timedelta(days=1), (T0,)) == T0 + timedelta(days=1)
    assert time_to_remember(future, (None,)) is None
