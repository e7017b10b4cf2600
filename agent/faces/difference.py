"""``usb-update bundle diff``: what changes, in words and for programs."""

from collections.abc import Iterator, Sequence
from typing import Any

from agent.core.difference import AppChange, Change, FileChanges, Update
from agent.services.difference import BundleDifference

PATHS_SHOWN = 10  # of each kind, unless all are asked for
DIGITS = 12  # of a digest, as Docker shows them
UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def difference_text(difference: BundleDifference, *, every: bool = False) -> str:
    """Say what changes, and what a device copies.

    Args:
        difference: of two bundles.
        every: name every path, however many there are.
    """
    targets = difference.targets
    lists = (("+", targets.added), ("-", targets.removed), ("~", targets.changed))
    lines = [f"{sign} {name}" for sign, names in lists for name in names]
    lines += [f"= {name}" for name in targets.same]
    for update in difference.updates:
        lines += ["", *_update_lines(update, every=every)]
    return "\n".join(["Targets:", *(f"  {line}" if line else "" for line in lines)])


def _update_lines(update: Update, *, every: bool) -> Iterator[str]:
    start = update.before.name if update.before else "nothing"
    yield f"{start} -> {update.after.name}: {amount(update.size)} to copy"
    yield f"  rootfs: {_rootfs_words(update)}"
    for sign, paths in _paths(update.files):
        yield from (f"    {sign} {_plain(path)}" for path in (paths if every else _some(paths)))
        if not every and len(paths) > PATHS_SHOWN:
            yield f"    {sign} and {len(paths) - PATHS_SHOWN} more (--all)"
    for app in update.apps:
        yield from _app_lines(app)


def _rootfs_words(update: Update) -> str:
    files = update.files
    if update.before and update.before.commit == update.after.commit:
        return "the same"
    counts = f"{len(files.added)} added, {len(files.removed)} removed, {len(files.changed)} changed"
    return f"{counts}; {amount(files.size)} in {len(files.copied)} objects"


def _paths(files: FileChanges) -> tuple[tuple[str, Sequence[str]], ...]:
    return (("+", files.added), ("-", files.removed), ("~", files.changed))


def _some(paths: Sequence[str]) -> Sequence[str]:
    return paths[:PATHS_SHOWN]


def _app_lines(app: AppChange) -> Iterator[str]:
    size = "" if app.change in (Change.SAME, Change.REMOVED) else f"; {amount(app.size)}"
    yield f"  App {app.name}: {app.change}{size}"
    for sign, layers in (("+", app.added), ("-", app.removed)):
        for digest, count in layers.items():
            yield f"    {sign} layer sha256:{digest[:DIGITS]} {amount(count)}"


def _plain(path: str) -> str:
    """Return a path for a terminal: somebody else named the file."""
    return path if path.isprintable() else ascii(path)[1:-1]


def amount(size: int) -> str:
    """Say bytes in a unit a person reads; thousands, as on a stick's label."""
    for unit, scale in UNITS:
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} B"


def difference_json(difference: BundleDifference) -> dict[str, Any]:
    """Say the same for programs; sizes are bytes."""
    targets = difference.targets
    return {
        "before": str(difference.before),
        "after": str(difference.after),
        "targets": {
            "added": list(targets.added),
            "removed": list(targets.removed),
            "changed": list(targets.changed),
            "same": list(targets.same),
        },
        "updates": [_update_json(update) for update in difference.updates],
    }


def _update_json(update: Update) -> dict[str, Any]:
    files, before = update.files, update.before
    return {
        "before": before.name if before else None,
        "after": update.after.name,
        "hardware_ids": list(update.after.hardware_ids),
        "bytes": update.size,
        "rootfs": {
            "before": before.commit if before else None,
            "after": update.after.commit,
            "added": list(files.added),
            "removed": list(files.removed),
            "changed": list(files.changed),
            "objects": len(files.copied),
            "bytes": files.size,
        },
        "apps": [_app_json(app) for app in update.apps],
    }


def _app_json(app: AppChange) -> dict[str, Any]:
    return {
        "name": app.name,
        "change": app.change.value,
        "before": app.before or None,
        "after": app.after or None,
        "bytes": app.size,
        "layers_added": [{"digest": f"sha256:{d}", "bytes": n} for d, n in app.added.items()],
        "layers_removed": [{"digest": f"sha256:{d}", "bytes": n} for d, n in app.removed.items()],
    }
