"""Making bundles: OSTree commits, Compose Apps and their images, and the bundle directory.

Host commands used: ostree. The docker SDK is used for the local engine alone.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agent.adapters.authoring.commits import OstreeCommits
from agent.adapters.authoring.destination import BundleDirectory
from agent.adapters.authoring.directory import DirectoryApp
from agent.adapters.authoring.images import image_sources
from agent.adapters.authoring.packfiles import PackDirectory, PackedBundle
from agent.adapters.authoring.store import PlannedApp, plan_app
from agent.core.appfiles import AppSource

__all__ = [
    "BundleDirectory",
    "OstreeCommits",
    "PackDirectory",
    "PackedBundle",
    "PlannedApp",
    "bundle_files",
    "plan_apps",
]


def bundle_files(path: Path) -> BundleDirectory | PackedBundle:
    """Return a bundle as its author sees it: a directory, or a pack to be looked at."""
    return PackedBundle(path) if path.is_file() else BundleDirectory(path)


@contextmanager
def plan_apps(
    apps: Sequence[Path | AppSource], images: Sequence[str], prefix: str, arch: str
) -> Iterator[tuple[PlannedApp, ...]]:
    """Read Apps and find their images; the images stay open until they were written.

    Args:
        apps: a directory, or another source of files, per App.
        images: image sources, see `images.image_sources`.
        prefix: ``<host>/<factory>`` of the Apps' URIs.
        arch: platform to choose where an image has several; may be empty.

    Raises:
        AuthoringError: an App or image cannot go into a bundle.
    """
    with (
        image_sources(images) as sources,
        tempfile.TemporaryDirectory(prefix="usb-update-") as scratch,
    ):
        yield tuple(
            plan_app(_source(app), sources, _own(Path(scratch), number), prefix=prefix, arch=arch)
            for number, app in enumerate(apps)
        )


def _source(app: Path | AppSource) -> AppSource:
    return DirectoryApp(app) if isinstance(app, Path) else app


def _own(scratch: Path, number: int) -> Path:
    """Make a directory for one App's archive."""
    path = scratch / str(number)
    path.mkdir()
    return path
