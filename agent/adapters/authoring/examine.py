"""A bundle's content, read from end to end: what is missing, damaged or out of place.

Nothing is changed. Every blob an App needs is hashed once, on every core, and so is every
OSTree object.
"""

import gzip
import hashlib
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from agent.adapters import files
from agent.adapters.authoring.commits import damaged_objects, holds_commit
from agent.adapters.authoring.composefile import COMPOSE_LIMIT_BYTES, COMPOSE_NAME
from agent.core.authoring import AuthoringError
from agent.core.policy import carried
from agent.core.target import AppRef, Target
from agent.ports import Progress

CHUNK_BYTES = 1024 * 1024
JSON_LIMIT_BYTES = 8 * 1024 * 1024
DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
INDEX_NOTE = "org.foundries.app.bundle.index.digest"
NESTING_LIMIT = 4  # index, manifest; real images have no more
STEP = "reading"
# What an archive or compose file can raise that anybody may have written.
UNREADABLE = (
    OSError,
    EOFError,
    zlib.error,
    tarfile.TarError,
    yaml.YAMLError,
    LookupError,
    TypeError,
    AttributeError,
    ValueError,
    RecursionError,
)


def strays(bundle: Path) -> tuple[str, ...]:
    """Name what makes some device stumble: files among the Apps, line ends in ``uri``."""
    return (*map(_say_stray, stray_files(bundle)), *map(_say_long, long_uris(bundle)))


def damaged(bundle: Path, targets: Sequence[Target], progress: Progress) -> tuple[str, ...]:
    """Read everything ``targets`` need and name what is missing or differs from its digest.

    Args:
        bundle: the bundle's directory.
        targets: what a device would install.
        progress: told how many bytes of Apps were read.
    """
    apps = dict.fromkeys(app for target in targets for app in carried(target).apps)
    repo = bundle / "ostree_repo"
    commits = dict.fromkeys(t.commit for t in targets if holds_commit(repo, t.commit))
    found = damaged_objects(repo, list(commits), progress)
    return (*found, *_damaged_apps(bundle / "apps" / "blobs" / "sha256", list(apps), progress))


def stray_files(bundle: Path) -> Iterator[Path]:
    """Yield what lies among the Apps and is no directory."""
    apps = bundle / "apps" / "apps"
    for entry in sorted(apps.iterdir()) if apps.is_dir() else ():
        if not entry.is_dir() or entry.is_symlink():
            yield entry


def _say_stray(entry: Path) -> str:
    return (
        f"'{entry}' is no App directory: other update agents fail at it; remove it "
        "(macOS leaves such files on sticks)"
    )


def long_uris(bundle: Path) -> Iterator[Path]:
    """Yield the ``uri`` files that do not end where the URI does."""
    for uri in sorted((bundle / "apps" / "apps").glob("*/*/uri")):
        if uri.is_file() and uri.read_bytes()[:2048].endswith((b"\n", b"\r", b" ")):
            yield uri


def _say_long(uri: Path) -> str:
    return f"'{uri}' ends in a line end or blank: devices take its App for missing"


def _damaged_apps(blobs: Path, apps: Sequence[AppRef], progress: Progress) -> list[str]:
    needed: dict[str, str] = {}
    problems: list[str] = []
    for app in apps:
        try:
            needed.update(dict.fromkeys(app_blobs(blobs, app), app.name))
        except AuthoringError as e:
            problems.append(e.message)
    present = {hexes: name for hexes, name in needed.items() if (blobs / hexes).is_file()}
    problems += [missing(h, name) for h, name in needed.items() if h not in present]
    return problems + _damaged_blobs(blobs, present, progress)


def _damaged_blobs(blobs: Path, names: Mapping[str, str], progress: Progress) -> list[str]:
    sizes = {name: (blobs / name).stat().st_size for name in names}
    total, done, problems = sum(sizes.values()), 0, []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for name, digest in zip(names, pool.map(lambda n: _digest(blobs / n), names), strict=True):
            done += sizes[name]
            progress(STEP, done, total)
            if digest != name:
                problems.append(
                    f"blob sha256:{name} of App {names[name]!r} has other content: sha256 {digest}"
                )
    return problems


def _digest(path: Path) -> str:
    sha256 = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            sha256.update(chunk)
    return sha256.hexdigest()


def missing(name: str, app: str) -> str:
    """Say that a blob of an App is not there."""
    return f"blob sha256:{name} of App {app!r} is missing"


def app_blobs(blobs: Path, app: AppRef) -> Iterator[str]:
    """Yield the names of all blobs of an App: manifest, archive, images and their layers."""
    yield app.digest
    manifest = _json(blobs, app.digest, app)
    yield from (_hex(layer) for layer in _entries(manifest, "layers"))
    for image in _app_images(blobs, app):
        yield from _image_blobs(blobs, image, app, NESTING_LIMIT)


def _images(archive: Path, app: AppRef) -> list[str]:
    """Return the digests of the images an App's archived compose file names."""
    try:
        with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                if member.name == COMPOSE_NAME and (file := tar.extractfile(member)):
                    text = file.read(COMPOSE_LIMIT_BYTES)
                    services = yaml.safe_load(text)["services"].values()
                    return [str(s["image"]).rpartition("sha256:")[2] for s in services]
    except UNREADABLE as e:
        raise AuthoringError(f"archive of App {app.name!r} cannot be read: {files.why(e)}") from e
    raise AuthoringError(f"archive of App {app.name!r} has no '{COMPOSE_NAME}'")


def image_layers(blobs: Path, app: AppRef) -> Iterator[str]:
    """Yield the names of the layers of an App's images."""
    for image in _app_images(blobs, app):
        for _, table in _image_manifests(blobs, image, app, NESTING_LIMIT):
            yield from (_hex(layer) for layer in _entries(table, "layers"))


def app_extras(blobs: Path, app: AppRef) -> Iterator[str]:
    """Yield the names of blobs that devices copy where they are there, and do not need."""
    manifest = _json(blobs, app.digest, app)
    for entry in (*_entries(manifest, "manifests"), manifest.get("config")):
        if entry is not None:
            yield _hex(entry)
    for layer in _entries(manifest, "layers"):
        notes = layer.get("annotations") if isinstance(layer, Mapping) else None
        if isinstance(notes, Mapping) and INDEX_NOTE in notes:
            yield _hex({"digest": notes[INDEX_NOTE]})


def _app_images(blobs: Path, app: AppRef) -> list[str]:
    layers = _entries(_json(blobs, app.digest, app), "layers")
    return _images(blobs / _hex(layers[0]), app) if layers else []


def _image_blobs(blobs: Path, name: str, app: AppRef, depth: int) -> Iterator[str]:
    for manifest, table in _image_manifests(blobs, name, app, depth):
        yield manifest
        if "manifests" not in table:
            yield from (_hex(e) for e in (table.get("config", {}), *_entries(table, "layers")))


def _image_manifests(
    blobs: Path, name: str, app: AppRef, depth: int
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a manifest and all below it; of an index, those manifests that are there."""
    if depth == 0:
        raise AuthoringError(f"image sha256:{name} of App {app.name!r} is nested too deep")
    table = _json(blobs, name, app)
    yield name, table
    if "manifests" in table:
        children = [_hex(entry) for entry in _entries(table, "manifests")]
        present = [child for child in children if (blobs / child).is_file()]
        if not present:
            raise AuthoringError(f"image sha256:{name} of App {app.name!r} has no manifest here")
        for child in present:
            yield from _image_manifests(blobs, child, app, depth - 1)


def _json(blobs: Path, name: str, app: AppRef) -> Mapping[str, Any]:
    what = f"blob sha256:{name} of App {app.name!r}"
    try:
        data = files.read_bounded(blobs / name, limit=JSON_LIMIT_BYTES)
    except FileNotFoundError as e:
        raise AuthoringError(missing(name, app.name)) from e
    except (OSError, files.NotRegularError, files.TooLargeError) as e:
        raise AuthoringError(f"{what} cannot be read: {files.why(e)}") from e
    if hashlib.sha256(data).hexdigest() != name:
        raise AuthoringError(f"{what} has other content than its digest")
    try:
        table = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise AuthoringError(f"{what} is not JSON") from e
    if not isinstance(table, dict):
        raise AuthoringError(f"{what} is not a JSON object")
    return table


def _entries(table: Mapping[str, Any], key: str) -> Sequence[object]:
    found = table.get(key) or ()
    if not isinstance(found, list | tuple):
        raise AuthoringError(f"'{key}' of a manifest is not a list")
    return found


def _hex(descriptor: object) -> str:
    digest = descriptor.get("digest") if isinstance(descriptor, Mapping) else None
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise AuthoringError(f"{str(digest)[:80]!r} is not a digest")
    return digest.removeprefix("sha256:")
