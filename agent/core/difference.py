"""What changes between two bundles for a device that has one and is given the other.

In: what each Target consists of, down to the objects and blobs that a device copies whole.
Out: what is new, gone or changed, and the bytes to copy. A device copies what it lacks, each
thing once however many Apps share it; so do the sums here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from agent.core.target import AppRef, Target

Sizes = Mapping[str, int]
"""What a device copies whole: its name, to its bytes as they lie in the bundle."""


class Change(StrEnum):
    """What happens to something."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    SAME = "same"


@dataclass(frozen=True, slots=True)
class AppContents:
    """One App of a bundle.

    Attributes:
        app: its name and URI.
        blobs: all its blobs, by digest.
        layers: those that are layers of its images.
    """

    app: AppRef
    blobs: Sizes
    layers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a bundle holds of one Target.

    Attributes:
        target: which.
        files: path in the rootfs to what tells two versions of the file apart.
        objects: OSTree objects of its commit, by file name.
        apps: those it carries.
    """

    target: Target
    files: Mapping[str, str]
    objects: Sizes
    apps: tuple[AppContents, ...]

    @property
    def blobs(self) -> dict[str, int]:
        """The blobs of all Apps, each once."""
        return _merged(app.blobs for app in self.apps)


@dataclass(frozen=True, slots=True)
class FileChanges:
    """What changes in a rootfs.

    Attributes:
        added, removed, changed: paths, sorted.
        copied: the OSTree objects to copy.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    copied: Sizes

    @property
    def size(self) -> int:
        """Bytes to copy."""
        return sum(self.copied.values())


@dataclass(frozen=True, slots=True)
class AppChange:
    """What changes in one App.

    Attributes:
        name: of the App.
        change: of the App as a whole.
        before, after: digests of its manifests, empty where it is not there.
        added, removed: layers, by digest; those another App has on that side as well are
            neither.
        copied: the blobs that nothing of the older bundle has.
    """

    name: str
    change: Change
    before: str
    after: str
    added: Sizes
    removed: Sizes
    copied: Sizes

    @property
    def size(self) -> int:
        """Bytes to copy for this App alone; several Apps may share them."""
        return sum(self.copied.values())


@dataclass(frozen=True, slots=True)
class Update:
    """What a device copies that goes from one Target to another.

    Attributes:
        before: what it has, None for a device that has nothing of it.
        after: what it gets.
        files: of the rootfs.
        apps: by name.
        copied: the blobs of all Apps, each once.
    """

    before: Target | None
    after: Target
    files: FileChanges
    apps: tuple[AppChange, ...]
    copied: Sizes

    @property
    def size(self) -> int:
        """Bytes to copy in all."""
        return self.files.size + sum(self.copied.values())


@dataclass(frozen=True, slots=True)
class TargetChanges:
    """Which Targets a bundle lists, compared with another.

    Attributes:
        added, removed: names.
        changed: names that both list, with other content.
        same: names that both list, with the same content.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    same: tuple[str, ...]


def compare_targets(before: Sequence[Target], after: Sequence[Target]) -> TargetChanges:
    """Compare what two bundles list."""
    old = {target.name: target for target in before}
    new = {target.name: target for target in after}
    both = [name for name in new if name in old]
    return TargetChanges(
        added=tuple(name for name in new if name not in old),
        removed=tuple(name for name in old if name not in new),
        changed=tuple(name for name in both if not new[name].same_as(old[name])),
        same=tuple(name for name in both if new[name].same_as(old[name])),
    )


def predecessor(before: Sequence[Target], target: Target) -> Target | None:
    """Return what a device runs that has the older bundle: its newest Target for that device."""
    fitting = [other for other in before if other.hardware_ids == target.hardware_ids]
    return max(fitting, key=lambda other: other.version, default=None)


def compare(before: Contents | None, after: Contents) -> Update:
    """Say what a device that has ``before`` copies in order to have ``after``."""
    old_apps = before.apps if before else ()
    held = before.blobs if before else {}
    names = sorted({content.app.name for content in (*old_apps, *after.apps)})
    return Update(
        before=before.target if before else None,
        after=after.target,
        files=_compare_files(before, after),
        apps=tuple(_compare_app(name, old_apps, after, held) for name in names),
        copied=_lacking(after.blobs, held),
    )


def _compare_files(before: Contents | None, after: Contents) -> FileChanges:
    old, new = before.files if before else {}, after.files
    return FileChanges(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        changed=tuple(sorted(path for path in new.keys() & old.keys() if new[path] != old[path])),
        copied=_lacking(after.objects, before.objects if before else {}),
    )


def _compare_app(
    name: str, before: Sequence[AppContents], after: Contents, held: Sizes
) -> AppChange:
    old = next((content for content in before if content.app.name == name), None)
    new = next((content for content in after.apps if content.app.name == name), None)
    old_digest, new_digest = (c.app.digest if c else "" for c in (old, new))
    return AppChange(
        name=name,
        change=_change(old_digest, new_digest),
        before=old_digest,
        after=new_digest,
        added=_lacking(_layers(new), held),
        removed=_lacking(_layers(old), after.blobs),
        copied=_lacking(new.blobs if new else {}, held),
    )


def _change(before: str, after: str) -> Change:
    if before == after:
        return Change.SAME
    if before and after:
        return Change.CHANGED
    return Change.ADDED if after else Change.REMOVED


def _layers(content: AppContents | None) -> dict[str, int]:
    if content is None:
        return {}
    return {digest: content.blobs[digest] for digest in sorted(content.layers)}


def _lacking(wanted: Sizes, held: Sizes) -> dict[str, int]:
    return {name: size for name, size in wanted.items() if name not in held}


def _merged(tables: Iterable[Sizes]) -> dict[str, int]:
    return {name: size for table in tables for name, size in table.items()}
