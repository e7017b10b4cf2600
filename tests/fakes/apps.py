"""Compose Apps in memory, by the rules of the real ones (``tests/contract``)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.core.errors import AppStartError, ComposeInvalidError, PullError, StoreError
from agent.core.target import AppRef
from agent.ports import Progress
from tests.fakes.effects import Effect, at_once


@dataclass
class MemoryApps:
    """The Apps of a device that is not there.

    Attributes:
        stored: versions that are whole in the store.
        projects: App name to the version whose start was carried out to the end.
        up: names of Apps whose services have containers.
        offered: App store of a medium to what it carries whole.
        broken: versions that do not start.
        invalid: versions whose compose file cannot be used.
        effect: carries out each change.
    """

    stored: set[AppRef] = field(default_factory=set)
    projects: dict[str, AppRef] = field(default_factory=dict)
    up: set[str] = field(default_factory=set)
    offered: dict[Path, set[AppRef]] = field(default_factory=dict)
    broken: set[AppRef] = field(default_factory=set)
    invalid: set[AppRef] = field(default_factory=set)
    effect: Effect = at_once

    def missing(self, apps: Sequence[AppRef]) -> tuple[AppRef, ...]:
        return tuple(app for app in apps if app not in self.stored)

    def running(self, apps: Sequence[AppRef]) -> bool:
        exactly = self.installed() == tuple(sorted(apps))
        return exactly and all(app in self.stored and app.name in self.up for app in apps)

    def fetch(self, store: Path, app: AppRef, progress: Progress) -> None:
        if app in self.stored:
            return
        if app not in self.offered.get(store, ()):
            raise PullError(f"App {app.name!r} is not in the bundle")
        self.effect(lambda: self.stored.add(app))
        progress(f"App {app.name}", 1, 1)

    def check(self, app: AppRef) -> None:
        if app not in self.stored:
            raise StoreError(f"App {app.name!r} is not in the store")
        if app in self.invalid:
            raise ComposeInvalidError(f"docker compose refuses App {app.name!r}")

    def start(self, app: AppRef) -> None:
        if app not in self.stored:
            raise AppStartError(f"App {app.name!r} is not whole in the store")
        if self.projects.get(app.name) != app:
            self.effect(lambda: self._take_down(app.name))
        if app in self.broken:
            raise AppStartError(f"App {app.name!r} does not start")
        self.effect(lambda: self._bring_up(app))

    def stop_all_but(self, keep: Sequence[AppRef]) -> None:
        for name in sorted(self.projects.keys() - {app.name for app in keep}):
            self.effect(lambda name=name: self._take_down(name))  # type: ignore[misc]

    def prune(self, keep: Sequence[AppRef]) -> None:
        self.effect(lambda: self.stored.intersection_update(keep))

    def installed(self) -> tuple[AppRef, ...]:
        return tuple(sorted(self.projects.values()))

    # --- what a person, a stick or the engine does ----------------------------------------

    def run_already(self, apps: Sequence[AppRef]) -> None:
        """Begin with these Apps stored and running."""
        self.stored.update(apps)
        for app in apps:
            self._bring_up(app)

    def offer(self, store: Path, apps: Sequence[AppRef]) -> None:
        """Put Apps on a medium."""
        self.offered.setdefault(store, set()).update(apps)

    def break_app(self, app: AppRef) -> None:
        """Let this version fail to start from now on."""
        self.broken.add(app)

    def lose_containers(self, name: str) -> None:
        """Remove an App's containers behind the agent's back."""
        self.up.discard(name)

    def reboot(self) -> None:
        """Containers restart by themselves."""

    def running_now(self) -> tuple[AppRef, ...]:
        """Return the Apps that are installed and have their containers."""
        return tuple(app for app in self.installed() if app.name in self.up)

    def _take_down(self, name: str) -> None:
        self.projects.pop(name, None)
        self.up.discard(name)

    def _bring_up(self, app: AppRef) -> None:
        self.projects[app.name] = app
        self.up.add(app.name)
