"""What a device copies that has one bundle and is given another."""

from dataclasses import replace

from agent.core.difference import (
    AppContents,
    Change,
    Contents,
    compare,
    compare_targets,
    predecessor,
)
from agent.core.target import AppRef, Target

APP_DIGEST = {"1": "1" * 64, "2": "2" * 64}


def target(version: int = 42, hardware_id: str = "rpi", commit: str = "c" * 64) -> Target:
    return Target(f"{hardware_id}-lmp-{version}", version, commit, (hardware_id,))


def app(name: str = "shop", digest: str = "1", **blobs: int) -> AppContents:
    """An App; blobs whose name begins with ``layer`` are layers."""
    ref = AppRef(name, f"hub/f/{name}@sha256:{APP_DIGEST[digest]}")
    return AppContents(ref, blobs, frozenset(b for b in blobs if b.startswith("layer")))


def contents(
    *apps: AppContents,
    files: dict[str, str] | None = None,
    objects: dict[str, int] | None = None,
    **facts: int,
) -> Contents:
    return Contents(target(**facts), files or {}, objects or {}, apps)


class TestUpdates:
    def test_nothing_changes(self) -> None:
        same = contents(app(layer1=10), files={"/a": "x"}, objects={"x.filez": 3})
        update = compare(same, same)

        assert update.size == 0
        assert [change.change for change in update.apps] == [Change.SAME]

    def test_a_device_that_has_nothing_copies_all(self) -> None:
        update = compare(None, contents(app(layer1=10, m=1), objects={"x.filez": 3}))

        assert (update.before, update.size) == (None, 14)
        assert update.apps[0].change is Change.ADDED

    def test_files_by_what_they_are(self) -> None:
        before = contents(files={"/gone": "1", "/same": "2", "/other": "3"},
                          objects={"1.filez": 1, "2.filez": 2, "3.filez": 3})  # fmt: skip
        after = contents(files={"/new": "3", "/same": "2", "/other": "4"},
                         objects={"2.filez": 2, "3.filez": 3, "4.filez": 40})  # fmt: skip
        files = compare(before, after).files

        assert (files.added, files.removed, files.changed) == (("/new",), ("/gone",), ("/other",))
        assert dict(files.copied) == {"4.filez": 40}  # what only moved is not copied

    def test_layers(self) -> None:
        before = contents(app(digest="1", layer1=10, layer2=20, m1=1))
        after = contents(app(digest="2", layer1=10, layer3=30, m2=2))
        update = compare(before, after)
        (change,) = update.apps

        assert change.change is Change.CHANGED
        assert (dict(change.added), dict(change.removed)) == ({"layer3": 30}, {"layer2": 20})
        assert change.size == update.size == 32

    def test_a_layer_that_another_app_brought_is_not_copied(self) -> None:
        before = contents(app("db", layer1=10))
        after = contents(app("db", layer1=10), app("shop", layer1=10, layer2=20))

        assert compare(before, after).size == 20

    def test_what_two_new_apps_share_is_copied_once(self) -> None:
        after = contents(app("db", layer1=10, m=1), app("shop", layer1=10, n=2))
        update = compare(contents(), after)

        assert [change.size for change in update.apps] == [11, 12]
        assert update.size == 13

    def test_an_app_that_goes_costs_nothing(self) -> None:
        (change,) = compare(contents(app(layer1=10)), contents()).apps

        assert (change.change, change.size, dict(change.removed)) == (
            Change.REMOVED,
            0,
            {"layer1": 10},
        )


class TestTargets:
    def test_by_name_and_content(self) -> None:
        old = (target(41), target(42), target(43))
        new = (replace(target(42), commit="d" * 64), target(43), target(44))
        changes = compare_targets(old, new)

        assert changes.added == ("rpi-lmp-44",)
        assert changes.removed == ("rpi-lmp-41",)
        assert changes.changed == ("rpi-lmp-42",)
        assert changes.same == ("rpi-lmp-43",)

    def test_a_device_runs_the_newest_that_fits_it(self) -> None:
        old = (target(41), target(43), target(42), target(99, "intel"))

        assert predecessor(old, target(44)) == target(43)
        assert predecessor(old, target(44, "stm32")) is None
