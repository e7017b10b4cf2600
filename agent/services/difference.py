"""``bundle diff``: two bundles read, every Target of the newer one compared.

Like ``show``, it reads what bundles say of themselves: no signature is judged.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from agent.core.authoring import AuthoringError
from agent.core.difference import (
    TargetChanges,
    Update,
    compare,
    compare_targets,
    predecessor,
)
from agent.core.target import Target
from agent.services.author import show_bundle
from agent.services.desk import BundleFiles, Desk


@dataclass(frozen=True, slots=True)
class BundleDifference:
    """What sets one bundle apart from another.

    Attributes:
        before, after: where they are.
        targets: which are listed.
        updates: for each Target of ``after``, what a device copies that has ``before``.
    """

    before: Path
    after: Path
    targets: TargetChanges
    updates: tuple[Update, ...]


def compare_bundles(desk: Desk, before: Path, after: Path) -> BundleDifference:
    """Say what a device that has everything of one bundle copies from the other.

    Raises:
        AuthoringError, BundleError: one of them is no whole bundle.
    """
    old, new = (_listed(desk, path) for path in (before, after))
    with ExitStack() as stack:
        one, other = (
            stack.enter_context(desk.bundle(path).opened(desk.progress)) for path in (before, after)
        )
        updates = tuple(_update(one, other, predecessor(old, t), t) for t in new)
    return BundleDifference(before, after, compare_targets(old, new), updates)


def _listed(desk: Desk, path: Path) -> tuple[Target, ...]:
    info = show_bundle(desk, path)
    absent = set(info.listed) - {target.name for target in info.targets}
    if absent:
        raise AuthoringError(
            f"'{path}' lists {', '.join(sorted(absent))}, and its 'targets.json' does not",
            hint="create the bundle anew",
        )
    return info.targets


def _update(before: BundleFiles, after: BundleFiles, old: Target | None, new: Target) -> Update:
    return compare(before.contents(old) if old else None, after.contents(new))
