"""The factory of the virtual devices: one bundle after another, made by the product itself."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.authoring_desk import Workshop
from tests.e2e.image import GOOD, DeviceImage
from tests.e2e.sticks import Stick, make_stick, run
from tests.field import COMPOSE
from tests.images import busybox_image

HARDWARE_ID = "board"
TAG = "main"
APP = "shop"
IMAGE = "example.com/factory/web:{}"
REPOSITORY = "ostree_repo"  # of a bundle


@dataclass
class Factory:
    """Makes bundles and puts them on sticks, each once in a session.

    Attributes:
        image: the devices and the versions they may get.
        directory: for bundles and sticks.
    """

    image: DeviceImage
    directory: Path
    _bundles: dict[str, Path] = field(default_factory=dict)
    _sticks: dict[str, Stick] = field(default_factory=dict)

    def bundle(
        self, version: int, ref: str = GOOD, *, app: Sequence[str] | None = None, **changes: object
    ) -> Path:
        """Return a bundle with one Target.

        Args:
            version: of the Target, ``board-lmp-<version>``.
            ref: of the root file system.
            app: command of the App ``shop``; None for no App.
            changes: of the `BundleSpec`; ``made`` is when it was made.
        """
        key = f"{version} {ref} {app} {changes}"
        if key not in self._bundles:
            self._bundles[key] = self._make(version, ref, app, changes)
        return self._bundles[key]

    def _make(
        self, version: int, ref: str, app: Sequence[str] | None, changes: dict[str, object]
    ) -> Path:
        place = self.directory / f"bundle{len(self._bundles)}"
        place.mkdir()
        taken = self._take_objects_along(place)
        apps = {} if app is None else self._app(place.with_suffix(".app"), version, app)
        asked: dict[str, object] = {
            "target": f"board-lmp-{version}",
            "destination": place,
            "hardware_id": HARDWARE_ID,
            "tag": TAG,
            "ref": ref,
            "allow_multiple_targets": taken,
            **apps,
            **changes,
        }
        made = asked.pop("made", datetime.now(UTC))
        Workshop(self.image.factory, made).create(version, **asked)  # type: ignore[arg-type]
        return place

    def _take_objects_along(self, place: Path) -> bool:
        """Begin with the objects of an earlier bundle, as hard links; copying takes long."""
        for earlier in list(self._bundles.values())[:1]:
            run("cp", "-al", earlier / REPOSITORY, place / REPOSITORY)
        return bool(self._bundles)

    def _app(self, place: Path, version: int, command: Sequence[str]) -> dict[str, object]:
        source = place / APP
        source.mkdir(parents=True)
        name = IMAGE.format(version)
        text = COMPOSE.format(image=name, command=json.dumps(list(command)))
        (source / "docker-compose.yml").write_text(text)
        archive = busybox_image(place, name, marker=str(version))
        return {"apps": (source,), "images": (f"{name}={archive}",)}

    def stick(self, filesystem: str, *bundles: Path, table: str = "", full: bool = False) -> Stick:
        """Return a stick to copy; the same call returns the same one."""
        key = f"{filesystem} {table} {full} {bundles}"
        if key not in self._sticks:
            image = self.directory / f"stick{len(self._sticks)}.img"
            self._sticks[key] = make_stick(image, filesystem, bundles, table=table, full=full)
        return self._sticks[key]
