"""A bundle from a factory's server: ask, verify, copy, and only then say that it is there.

In: a `Desk`, a `FactorySource` and what is wanted. Out: a bundle that the device's own code
accepts, or an exception with nothing listed that is not there. The order in `fetch_bundle` is
the law of this module: look at the destination, let the server sign, verify every document it
sent, fetch and check content, copy, and write metadata last of all.

``fioctl`` writes metadata first, and a bundle before it was looked at; here a command that is
refused has changed nothing.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

from agent.core import authoring
from agent.core.authoring import BUNDLE_FILE, FIRST_BRANCH_VERSION, AuthoringError
from agent.core.bundle import RawBundle, TrustedDocuments, VerifiedBundle
from agent.core.factoryapi import Branch
from agent.core.policy import carried
from agent.core.target import AppRef, Target
from agent.core.verify import ROTATIONS_LIMIT, bundle_signers, verify_bundle, verify_roots
from agent.log import get_logger
from agent.ports import Progress
from agent.services.author import (
    DEFAULT_DAYS,
    BundleInfo,
    Load,
    add_content,
    documents_before,
    show_bundle,
)
from agent.services.desk import BundleFiles, Desk, NewApp

log = get_logger()


class FactorySource(Protocol):
    """Somebody who has a factory's Targets, signs metadata for bundles and sends content."""

    @property
    def label(self) -> str:
        """What to call it in messages."""

    def targets(self, branch: Branch) -> Mapping[str, Any]:
        """Return the Targets of a branch by name; nothing is verified."""

    def root(self, version: int, branch: Branch) -> bytes | None:
        """Return a root, None when there is none of this version."""

    def metadata(
        self, target: str, branch: Branch, *, days: int, listed: bytes | None, now: datetime
    ) -> dict[str, bytes]:
        """Sign the four documents of a bundle; returns them by file name."""

    def rootfs(self, target: Target, progress: Progress) -> AbstractContextManager[Path]:
        """Fetch an OSTree repository with a Target's commit, every object checked."""

    def apps(
        self, target: Target, apps: Sequence[AppRef], arch: str, progress: Progress
    ) -> AbstractContextManager[tuple[NewApp, ...]]:
        """Fetch a Target's Apps, ready to be written to a bundle."""


@dataclass(frozen=True, slots=True)
class FetchSpec:
    """What is wanted of a factory's server.

    Attributes:
        target: the Target's name.
        destination: the bundle directory.
        branch: where the Target is listed.
        expires_in_days: of the bundle.
        tuf_only: renew the metadata of an existing bundle, nothing else.
        no_apps: fetch the rootfs alone.
        allow_multiple_targets: whether the destination may hold a bundle already.
        with_initial_roots: whether the bundle carries roots 1 and 2.
        ostree_repo: takes the commit from there, not from the server.
        roots: directory with the roots of the devices; None trusts the server's own.
        arch: which platform, where an image has several.
    """

    target: str
    destination: Path
    branch: Branch
    expires_in_days: int = DEFAULT_DAYS
    tuf_only: bool = False
    no_apps: bool = False
    allow_multiple_targets: bool = False
    with_initial_roots: bool = False
    ostree_repo: Path | None = None
    roots: Path | None = None
    arch: str = ""


@dataclass(frozen=True, slots=True)
class _Sent:
    """What the server sent, verified: all of it, or it would not be here.

    Attributes:
        target: the one that was asked for.
        roots: ``N.root.json`` to bytes.
        documents: the other four.
    """

    target: Target
    roots: Mapping[str, bytes]
    documents: Mapping[str, bytes]


def fetch_bundle(desk: Desk, source: FactorySource, spec: FetchSpec) -> BundleInfo:
    """Fetch a bundle, add a Target to one, or renew one.

    Raises:
        AuthoringError: it cannot be had as asked. The destination is untouched, or holds
            content that nothing lists.
        BundleError: what the server sent does not verify; nothing was written.
    """
    if spec.expires_in_days < 1:
        raise AuthoringError(f"a bundle lasts 1 day or more, not {spec.expires_in_days}")
    bundle = desk.bundle(spec.destination)
    with bundle.alone(f"fetches {spec.target!r}"):
        _fetch(desk, source, spec, bundle)
    return show_bundle(desk, spec.destination)


def _fetch(desk: Desk, source: FactorySource, spec: FetchSpec, bundle: BundleFiles) -> None:
    listed = _look_before(bundle, spec)
    _demand_offered(source, spec)
    roots = _fetch_roots(source, spec.branch)
    documents = source.metadata(
        spec.target, spec.branch, days=spec.expires_in_days, listed=listed, now=desk.now()
    )
    sent = _verified(desk, spec, roots, documents, listed)
    with ExitStack() as stack:
        if not spec.tuf_only:
            load = _fetched(desk, source, spec, sent.target, stack)
            add_content(desk, bundle, spec.target, load)
        bundle.publish({**_carried(roots, initial=spec.with_initial_roots), **sent.documents})
    log.info("bundle.fetched", target=spec.target, path=str(spec.destination), source=source.label)


def _look_before(bundle: BundleFiles, spec: FetchSpec) -> bytes | None:
    """Return the bundle's own list, None without one; refuse what must not be touched."""
    documents = documents_before(
        bundle, spec.target, adds=spec.allow_multiple_targets, renews=spec.tuf_only
    )
    listed = documents.get(BUNDLE_FILE)
    if listed is None:
        return None
    facts = authoring.read_bundle(authoring.read_signed(listed, BUNDLE_FILE))
    tag = spec.branch.tag or facts.tag
    if (facts.bundle_type, facts.tag) != (spec.branch.bundle_type, tag):
        raise AuthoringError(
            f"the bundle in '{bundle.path}' is of type '{facts.bundle_type}' with tag "
            f"{facts.tag!r}; asked for {spec.branch}",
            hint="one bundle has one type and one tag; name another directory",
        )
    if spec.tuf_only and spec.target not in facts.targets:
        raise AuthoringError(
            f"the bundle in '{bundle.path}' lists no Target {spec.target!r}; it lists "
            f"{', '.join(facts.targets)}"
        )
    return listed


def _demand_offered(source: FactorySource, spec: FetchSpec) -> None:
    offered = source.targets(spec.branch)
    if spec.target not in offered:
        raise AuthoringError(
            f"{source.label} lists no Target {spec.target!r}, {spec.branch}; it lists "
            f"{', '.join(sorted(offered)[-5:]) or 'none'}"
        )


def _fetch_roots(source: FactorySource, branch: Branch) -> dict[str, bytes]:
    """Return the chain up to the first root that is not there.

    The first two are in every device's image; servers that do not show them begin at the third.
    """
    for first in (1, FIRST_BRANCH_VERSION):
        versions = range(first, first + ROTATIONS_LIMIT)
        answers = takewhile(bool, (source.root(version, branch) for version in versions))
        found = {f"{n}.root.json": root for n, root in zip(versions, answers, strict=False) if root}
        if found:
            return found
    raise AuthoringError(f"{source.label} has no root, {branch}")


def _carried(roots: Mapping[str, bytes], *, initial: bool) -> dict[str, bytes]:
    first = 1 if initial else FIRST_BRANCH_VERSION
    return {name: data for name, data in roots.items() if _version(name) >= first}


def _version(name: str) -> int:
    return int(name.partition(".")[0])


# --- verify ----------------------------------------------------------------------------


def _verified(
    desk: Desk,
    spec: FetchSpec,
    roots: Mapping[str, bytes],
    documents: Mapping[str, bytes],
    listed: bytes | None,
) -> _Sent:
    """Judge what the server sent as a device would.

    A production bundle still lacks the offline signatures of its list: then all else is
    verified, and of the list, that no signature is bad.
    """
    newest = roots[max(roots, key=_version)]
    signers = bundle_signers(documents[BUNDLE_FILE], newest)
    _demand_asked(spec, documents[BUNDLE_FILE], listed)
    if signers.refused:
        raise AuthoringError(
            f"the server's '{BUNDLE_FILE}' carries a bad or strange signature by "
            f"{', '.join(signers.refused)}; devices would refuse it"
        )
    whole = signers.missing == 0
    judged = {name: data for name, data in documents.items() if whole or name != BUNDLE_FILE}
    verified = verify_bundle(
        RawBundle({**roots, **judged}, "the server's answer"),
        _trusted(desk, spec, roots),
        device_type=spec.branch.bundle_type if whole else None,
        device_tags=(spec.branch.tag,) if whole and spec.branch.tag else (),
        now=desk.now(),
        require_bundle_metadata=whole,
    )
    return _Sent(_asked_target(spec, verified), roots, documents)


def _trusted(desk: Desk, spec: FetchSpec, roots: Mapping[str, bytes]) -> TrustedDocuments:
    """Return where trust begins: the devices' own roots, else the server's first."""
    if spec.roots is not None:
        provisioned = dict(desk.roots(spec.roots, spec.branch.bundle_type))
        if not provisioned:
            raise AuthoringError(f"'{spec.roots}' holds no roots, {spec.branch}")
    else:
        provisioned = {_version(name): data for name, data in roots.items()}
    return TrustedDocuments(roots=verify_roots(provisioned))


def _demand_asked(spec: FetchSpec, document: bytes, listed: bytes | None) -> None:
    """Refuse a list for other devices, or one that forgot what the bundle holds."""
    facts = authoring.read_bundle(authoring.read_signed(document, f"the server's '{BUNDLE_FILE}'"))
    branch = spec.branch
    if facts.bundle_type is not branch.bundle_type or (branch.tag and facts.tag != branch.tag):
        raise AuthoringError(
            f"the server's bundle is of type '{facts.bundle_type}' with tag {facts.tag!r}; "
            f"asked for {branch}"
        )
    held = authoring.read_bundle(authoring.read_signed(listed, BUNDLE_FILE)) if listed else None
    wanted = (*(held.targets if held else ()), spec.target)
    if forgotten := [name for name in wanted if name not in facts.targets]:
        raise AuthoringError(
            f"the server's bundle does not list {', '.join(forgotten)}",
            hint="name an empty directory" if held else "",
        )


def _asked_target(spec: FetchSpec, verified: VerifiedBundle) -> Target:
    for target in verified.targets:
        if target.name == spec.target:
            return target
    raise AuthoringError(f"the server's metadata does not vouch for Target '{spec.target}'")


# --- content ---------------------------------------------------------------------------


def _fetched(
    desk: Desk, source: FactorySource, spec: FetchSpec, target: Target, stack: ExitStack
) -> Load:
    """Fetch everything; downloads stay until the bundle is whole."""
    if spec.ostree_repo is not None:
        repo = spec.ostree_repo
        desk.commits(repo).resolve(target.commit)
    else:
        repo = stack.enter_context(source.rootfs(target, desk.progress))
    wanted = () if spec.no_apps else carried(target).apps
    apps: tuple[NewApp, ...] = ()
    if wanted:
        apps = stack.enter_context(source.apps(target, wanted, spec.arch, desk.progress))
    return Load(repo, target.commit, apps)
