"""What every `Apps` must do. Subclasses provide the ``bench`` fixture."""

from pathlib import Path
from typing import Protocol

import pytest

from agent.core.errors import AppStartError, ComposeInvalidError, PullError
from agent.core.target import AppRef
from agent.ports import Apps


class Bench(Protocol):
    """A device without Apps, and a stick."""

    apps: Apps
    store: Path

    def offer(
        self, name: str, version: str = "1", *, starts: bool = True, valid: bool = True
    ) -> AppRef:
        """Put a version of an App on the stick.

        Args:
            name: of the App.
            version: another one is another App URI.
            starts: whether its program is there.
            valid: whether its compose file can be used, which `check` finds out.
        """

    def lose_containers(self, name: str) -> None:
        """Remove an App's containers behind the agent's back."""


def nothing(_step: str, _done: int, _total: int) -> None:
    """Show nothing."""


def fetched(bench: Bench, name: str, version: str = "1", *, starts: bool = True) -> AppRef:
    app = bench.offer(name, version, starts=starts)
    bench.apps.fetch(bench.store, app, nothing)
    return app


def started(bench: Bench, name: str, version: str = "1") -> AppRef:
    app = fetched(bench, name, version)
    bench.apps.start(app)
    return app


class AppsContract:
    def test_a_fresh_device_has_no_apps_and_runs_exactly_none(self, bench):
        assert bench.apps.installed() == ()
        assert bench.apps.running(())

    def test_an_app_is_missing_until_it_is_fetched(self, bench):
        web, other = bench.offer("web"), bench.offer("other")
        before = bench.apps.missing([web, other])

        bench.apps.fetch(bench.store, web, nothing)

        assert (before, bench.apps.missing([web, other])) == ((web, other), (other,))

    def test_fetching_twice_is_no_error(self, bench):
        app = fetched(bench, "web")

        bench.apps.fetch(bench.store, app, nothing)

        assert bench.apps.missing([app]) == ()

    def test_fetching_starts_nothing(self, bench):
        app = fetched(bench, "web")

        assert bench.apps.installed() == ()
        assert not bench.apps.running([app])

    def test_what_the_stick_does_not_carry_is_a_pull_error(self, bench):
        absent = AppRef("absent", f"registry.example.com/factory/absent@sha256:{'0' * 64}")

        with pytest.raises(PullError):
            bench.apps.fetch(bench.store, absent, nothing)

        assert bench.apps.missing([absent]) == (absent,)

    def test_a_good_app_passes_its_check(self, bench):
        bench.apps.check(fetched(bench, "web"))

    def test_an_app_that_compose_refuses_is_invalid(self, bench):
        app = bench.offer("web", valid=False)
        bench.apps.fetch(bench.store, app, nothing)

        with pytest.raises(ComposeInvalidError):
            bench.apps.check(app)

    def test_a_started_app_runs_and_is_installed(self, bench):
        app = started(bench, "web")

        assert bench.apps.installed() == (app,)
        assert bench.apps.running([app])

    def test_starting_twice_is_no_error(self, bench):
        app = started(bench, "web")

        bench.apps.start(app)

        assert bench.apps.running([app])

    def test_running_means_exactly_these(self, bench):
        web, other = started(bench, "web"), started(bench, "other")

        assert bench.apps.running([other, web])
        assert not bench.apps.running([web])
        assert not bench.apps.running([])

    def test_starting_what_was_not_fetched_fails(self, bench):
        app = bench.offer("web")

        with pytest.raises(AppStartError):
            bench.apps.start(app)

        assert bench.apps.installed() == ()

    def test_an_update_replaces_the_version_before(self, bench):
        one = started(bench, "web", "1")

        two = started(bench, "web", "2")

        assert bench.apps.installed() == (two,)
        assert bench.apps.running([two])
        assert not bench.apps.running([one])

    def test_after_a_failed_start_neither_version_counts_as_running(self, bench):
        one = started(bench, "web", "1")
        two = fetched(bench, "web", "2", starts=False)

        with pytest.raises(AppStartError):
            bench.apps.start(two)

        assert not bench.apps.running([one])
        assert not bench.apps.running([two])

    def test_after_a_failed_start_the_version_before_starts_again(self, bench):
        one = started(bench, "web", "1")
        two = fetched(bench, "web", "2", starts=False)
        with pytest.raises(AppStartError):
            bench.apps.start(two)

        bench.apps.start(one)

        assert bench.apps.running([one])

    def test_an_app_without_its_containers_does_not_run(self, bench):
        app = started(bench, "web")

        bench.lose_containers("web")

        assert not bench.apps.running([app])

    def test_all_but_those_kept_are_stopped(self, bench):
        web, _ = started(bench, "web"), started(bench, "other")

        bench.apps.stop_all_but([web])

        assert bench.apps.running([web])

    def test_an_app_is_kept_by_its_name_whatever_its_version(self, bench):
        """So that an update finds its former containers and replaces them."""
        one = started(bench, "web", "1")
        two = fetched(bench, "web", "2")

        bench.apps.stop_all_but([two])

        assert bench.apps.running([one])

    def test_a_stopped_app_is_not_installed_and_starts_again(self, bench):
        app = started(bench, "web")

        bench.apps.stop_all_but([])
        stopped = bench.apps.installed()
        bench.apps.start(app)

        assert stopped == ()
        assert bench.apps.running([app])

    def test_pruning_drops_what_is_not_kept(self, bench):
        one = started(bench, "web", "1")
        two = started(bench, "web", "2")

        bench.apps.prune([two])

        assert bench.apps.missing([one, two]) == (one,)
        assert bench.apps.running([two])

    def test_keeping_an_app_that_is_not_there_keeps_nothing_else(self, bench):
        app, kept = fetched(bench, "web", "2"), fetched(bench, "kept")
        absent = bench.offer("other", "3")

        bench.apps.prune([absent, kept])

        assert bench.apps.missing([app, kept]) == (app,)
