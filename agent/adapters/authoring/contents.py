"""What a bundle holds of one Target, named and measured, so that two can be compared.

Nothing is believed and nothing but metadata is read: sizes are those of the files as they
lie in the bundle, which is what a device reads of them.

Host commands used: ostree.
"""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from agent.adapters.authoring.commits import list_commit
from agent.adapters.authoring.examine import app_blobs, app_extras, image_layers, missing
from agent.core.authoring import AuthoringError
from agent.core.difference import AppContents, Contents
from agent.core.policy import carried
from agent.core.target import AppRef, Target

# "-00644 0 0      5 <checksum> /path", "d00755 0 0      0 <tree> <meta> /path",
# "l00777 0 0      0 <checksum> /path -> target"
_LINE = re.compile(
    r"^(?P<kind>[-ld])(?P<mode>\d+) +(?P<owner>\d+ +\d+) +\d+ "
    r"(?P<one>[0-9a-f]{64})(?: (?P<two>[0-9a-f]{64}))? (?P<path>/.*)$",
    re.ASCII,
)


def contents(bundle: Path, target: Target) -> Contents:
    """Return what a bundle holds of a Target.

    Args:
        bundle: its directory.
        target: one that it lists.

    Raises:
        AuthoringError: something of the Target is not in the bundle.
    """
    files, names = _rootfs(bundle / "ostree_repo", target)
    objects = {name: _object_size(bundle / "ostree_repo", name, target) for name in names}
    blobs = bundle / "apps" / "blobs" / "sha256"
    apps = tuple(_app(blobs, app) for app in carried(target).apps)
    return Contents(target, files, objects, apps)


def _rootfs(repo: Path, target: Target) -> tuple[dict[str, str], list[str]]:
    """Return what each file of the commit is, and the names of all objects."""
    with tempfile.TemporaryDirectory(prefix="usb-update-") as scratch:
        listing = list_commit(repo, target.commit, Path(scratch))
    files: dict[str, str] = {}
    names = {f"{target.commit}.commit": None}
    for line in listing.splitlines():
        if found := _LINE.match(line):
            names.update(dict.fromkeys(_objects(found)))
            if found["kind"] != "d":
                # The checksum of a file covers its content, mode, owner and attributes.
                files[found["path"].partition(" -> ")[0]] = found["one"]
    return files, list(names)


def _objects(found: re.Match[str]) -> Iterator[str]:
    if found["kind"] == "d":
        yield f"{found['one']}.dirtree"
        yield f"{found['two']}.dirmeta"
    else:
        yield f"{found['one']}.filez"


def _object_size(repo: Path, name: str, target: Target) -> int:
    path = repo / "objects" / name[:2] / name[2:]
    if not path.is_file() or path.is_symlink():
        raise AuthoringError(
            f"object '{name}' of Target {target.name!r} is missing in '{repo}'",
            hint="'usb-update bundle verify --deep' names everything that is",
        )
    return path.stat().st_size


def _app(blobs: Path, app: AppRef) -> AppContents:
    needed = {*app_blobs(blobs, app)}
    layers = frozenset(image_layers(blobs, app))
    more = {name for name in app_extras(blobs, app) if (blobs / name).is_file()}
    return AppContents(app, {name: _blob_size(blobs, name, app) for name in needed | more}, layers)


def _blob_size(blobs: Path, name: str, app: AppRef) -> int:
    path = blobs / name
    if not path.is_file() or path.is_symlink():
        raise AuthoringError(missing(name, app.name))
    return path.stat().st_size
