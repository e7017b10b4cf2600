"""Bundles without an account: make keys, create, sign, show, verify.

In: a `Desk` and what is wanted. Out: a bundle on a disk that the device's own code
accepts, or an exception with nothing listed that is not there. The order in `create_bundle` is the
law of this module: look at the destination, plan everything, check the room, copy content,
and only then write metadata, the list of Targets last.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from agent.core import authoring, keys
from agent.core.authoring import (
    BUNDLE_FILE,
    FIRST_BRANCH_VERSION,
    ROLE_LIFETIME,
    SNAPSHOT_FILE,
    TARGETS_FILE,
    TIMESTAMP_FILE,
    AuthoringError,
    BundleFacts,
    ChainKeys,
    NewTarget,
    OnlineKeys,
)
from agent.core.bundle import TrustedDocuments
from agent.core.bundletype import BundleType
from agent.core.canonical import canonical_bytes
from agent.core.errors import BundleError
from agent.core.keys import ED25519, PrivateKey, key_id
from agent.core.outcome import CheckExit, InstallExit, Outcome
from agent.core.policy import DeviceFacts, Refusal, select_target
from agent.core.target import Target, target_from_json, unknown_target
from agent.core.tuf import Role, Root
from agent.core.verify import BundleSigners, bundle_signers, verify_bundle, verify_roots
from agent.log import get_logger
from agent.ports import Progress
from agent.services.desk import BundleFiles, Desk, FactoryKeys, NewApp
from agent.services.sources import NO_GIT, GitSpec, Sources, find_sources
from agent.services.together import together

log = get_logger()

DEFAULT_PREFIX = "hub.local/factory"
DEFAULT_DAYS = 30
ROTATE_ROOT = "rotate the root key: 'usb-update keys rotate --role root'"
DEFAULT_ROOT_DAYS = 3650  # a device in the field must outlive its factory's holidays


@dataclass(frozen=True, slots=True)
class BundleSpec:
    """What ``bundle create`` is asked for.

    Attributes:
        target: the Target's name.
        destination: the bundle directory.
        keys: directory made by `make_keys`.
        tag, hardware_id: of the devices it is for.
        bundle_type: CI or production.
        version: None takes the number at the end of the name.
        ostree_repo: where the commit comes from; not needed with ``tuf_only``.
        ref: ref or commit in ``ostree_repo``.
        apps: App directories.
        images: where their images are, see `adapters.authoring.images`.
        registry_prefix: ``<host>/<factory>`` of App URIs.
        arch: which platform of multi-platform images.
        expires_in_days: of the bundle.
        tuf_only: renew the metadata of an existing bundle, nothing else.
        allow_multiple_targets: whether the destination may hold a bundle already.
        git: which git repositories Apps and configuration come from, beside ``apps``.
        with_initial_roots: whether the bundle carries roots 1 and 2, for devices that were
            not provisioned with any.
        issued: ``targets.json`` of a factory, signed, taken as it is; empty issues one.
        refresh: how ``issued`` is made to last longer, for a hint.
    """

    target: str
    destination: Path
    keys: Path
    tag: str
    hardware_id: str = ""
    bundle_type: BundleType = BundleType.CI
    version: int | None = None
    ostree_repo: Path | None = None
    ref: str = ""
    apps: tuple[Path, ...] = ()
    images: tuple[str, ...] = ()
    registry_prefix: str = DEFAULT_PREFIX
    arch: str = ""
    expires_in_days: int = DEFAULT_DAYS
    tuf_only: bool = False
    allow_multiple_targets: bool = False
    with_initial_roots: bool = False
    git: GitSpec = NO_GIT
    issued: bytes = b""
    refresh: str = ""


@dataclass(frozen=True, slots=True)
class BundleInfo:
    """What a bundle says of itself, and how far its signatures carry.

    Attributes:
        path: where it is.
        bundle_type, tag, expires, listed: of ``bundle-targets.json``.
        targets: the Targets of ``targets.json`` that are listed.
        expiries: file name to when it ends.
        signers: valid, strange and missing signatures; None without a root to judge by.
        targets_missing: signatures that ``targets.json`` itself still lacks.
        root_version: of the root they were judged by; 0 without one.
    """

    path: Path
    bundle_type: BundleType
    tag: str
    expires: datetime
    listed: tuple[str, ...]
    targets: tuple[Target, ...]
    expiries: Mapping[str, datetime]
    signers: BundleSigners | None
    targets_missing: int
    root_version: int

    @property
    def ends(self) -> datetime:
        """The earliest of all expiries: when the bundle stops being accepted."""
        return min([self.expires, *self.expiries.values()])


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a device would answer to a bundle.

    Attributes:
        outcome: exit status of ``check``, Target, reason; 16 when accepted.
        accepted: whether the device would install from it.
        warnings: what other devices may stumble over.
        damaged: content that is missing or differs from its digest (``deep`` only).
    """

    outcome: Outcome
    accepted: bool
    warnings: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceGuess:
    """The device that ``bundle verify`` pretends to be.

    Attributes:
        roots: directory with its provisioned roots; None for a device without any.
        bundle_type: None when it is not registered.
        tags: empty takes any tag.
        hardware_id: empty takes each Target's own.
    """

    roots: Path | None = None
    bundle_type: BundleType | None = None
    tags: tuple[str, ...] = ()
    hardware_id: str = ""


@dataclass(frozen=True, slots=True)
class _Before:
    """What the destination holds already."""

    documents: Mapping[str, bytes] = field(default_factory=dict)
    listed: tuple[str, ...] = ()
    entries: Mapping[str, Any] = field(default_factory=dict)

    @property
    def highest_version(self) -> int:
        roles = (TARGETS_FILE, SNAPSHOT_FILE, TIMESTAMP_FILE)
        found = (authoring.read_signed(self.documents[n], n).version for n in roles if self._has(n))
        return max(found, default=0)

    def _has(self, name: str) -> bool:
        return name in self.documents


@dataclass(frozen=True, slots=True)
class _Job:
    """One call of `create_bundle`: what was asked, by whom, against which root, and when."""

    spec: BundleSpec
    root: Root
    online: OnlineKeys
    now: datetime

    @property
    def online_suffices(self) -> bool:
        """Whether the online key alone reaches the threshold: nobody signs later."""
        return self.root.roles[Role.TARGETS].threshold <= 1

    @property
    def keeps_targets(self) -> bool:
        """Whether ``targets.json`` stays as it is, with the offline signatures it has."""
        return bool(self.spec.issued) or (self.spec.tuf_only and not self.online_suffices)

    def held_targets(self, before: "_Before") -> authoring.Signed:
        """Return the ``targets.json`` that is kept."""
        document = self.spec.issued or before.documents[TARGETS_FILE]
        return authoring.read_signed(document, TARGETS_FILE)


# --- keys ------------------------------------------------------------------------------


def make_keys(
    desk: Desk,
    directory: Path,
    *,
    keytype: str = ED25519,
    expires_in_days: int = DEFAULT_ROOT_DAYS,
    rsa_bits: int = keys.RSA_DEFAULT_BITS,
) -> None:
    """Make a factory's keys and both root chains.

    Raises:
        AuthoringError: the directory has content, or the chain would never be valid.
    """
    if expires_in_days < 1:
        raise AuthoringError(f"roots last 1 day or more, not {expires_in_days}")
    chain = ChainKeys(*(new_key(keytype, rsa_bits) for _ in range(6)))
    expires = desk.now() + timedelta(days=expires_in_days)
    roots = {kind: authoring.root_chain(chain, kind, expires) for kind in BundleType}
    desk.keys(directory).create(chain, roots)
    log.info("keys.made", directory=str(directory), keytype=keytype)


def new_key(keytype: str, rsa_bits: int = keys.RSA_DEFAULT_BITS) -> PrivateKey:
    """Generate a key."""
    return keys.generate_ed25519() if keytype == ED25519 else keys.generate_rsa(rsa_bits)


# --- create ----------------------------------------------------------------------------


def create_bundle(desk: Desk, spec: BundleSpec) -> BundleInfo:
    """Make a bundle, add a Target to one, or renew one.

    Raises:
        AuthoringError: it cannot be made as asked. The destination is untouched, or holds
            content that nothing lists.
    """
    factory = desk.keys(spec.keys)
    root = latest(factory.roots(spec.bundle_type))
    job = _Job(spec, root, factory.online(), desk.now())
    _demand_listed(job)
    bundle = desk.bundle(spec.destination)
    with bundle.alone(f"makes {spec.target!r}"):
        _create(desk, factory, bundle, job)
    return show_bundle(desk, spec.destination)


def _create(desk: Desk, factory: FactoryKeys, bundle: BundleFiles, job: _Job) -> None:
    spec, roots = job.spec, factory.roots(job.spec.bundle_type)
    before = _look_before(bundle, job)
    expires = _expiry(job, before)
    factory.versions().next(spec.bundle_type)  # a lost counter is found before anything is written
    entries = _renewed(before, spec) if spec.tuf_only else _add_content(desk, job, bundle, before)
    request = _request(job, before, entries, expires)
    version = factory.reserve_version(spec.bundle_type, before.highest_version, request)
    targets = _issue_targets(job, before, entries, version)
    documents = _issue(job, before, targets, version, expires)
    bundle.publish({**_carried_roots(roots, initial=spec.with_initial_roots), **documents})
    log.info("bundle.created", target=spec.target, path=str(spec.destination), version=version)


def latest(roots: Mapping[str, bytes]) -> Root:
    """Return the newest root of a chain."""
    name = max(roots, key=lambda name: int(name.partition(".")[0]))
    return authoring.read_root(roots[name], name)


def _demand_listed(job: _Job) -> None:
    """Refuse keys that the factory's newest root does not know: no device would."""
    for role, key in (
        (Role.TARGETS, job.online.targets),
        (Role.SNAPSHOT, job.online.snapshot),
        (Role.TIMESTAMP, job.online.timestamp),
    ):
        keyid = key_id(key.public)
        if job.root.key_of(role, keyid) is None:
            raise AuthoringError(
                f"online {role.value} key {keyid} in '{job.spec.keys}' is not in root version "
                f"{job.root.version}",
                hint="the archives in 'keys' and the chain in 'roots' belong together; a 'keys "
                "rotate' that was interrupted is repeated",
            )


def _look_before(bundle: BundleFiles, job: _Job) -> _Before:
    """Read the destination; refuse what must not be touched, before anything is."""
    spec = job.spec
    documents = documents_before(
        bundle, spec.target, adds=spec.allow_multiple_targets, renews=spec.tuf_only
    )
    return _read_before(documents, bundle, job) if BUNDLE_FILE in documents else _Before(documents)


def documents_before(
    bundle: BundleFiles, target: str, *, adds: bool, renews: bool
) -> dict[str, bytes]:
    """Return the metadata of a destination, unless what is there must not be touched.

    What an interrupted command began for the same Target may be.

    Args:
        bundle: the destination.
        target: the Target that is to go there.
        adds: whether it may hold a bundle already.
        renews: whether it must.

    Raises:
        AuthoringError: it holds something, or no bundle to renew.
    """
    occupied = bundle.occupied()
    if occupied and not (adds or renews or bundle.unfinished() == target):
        raise AuthoringError(
            f"'{bundle.path}' holds {', '.join(occupied)} already",
            hint="name an empty directory; --allow-multiple-targets adds to a bundle, "
            "--tuf-only renews one",
        )
    documents = bundle.documents()
    if renews and BUNDLE_FILE not in documents:
        raise AuthoringError(f"'{bundle.path}' holds no bundle to renew: no '{BUNDLE_FILE}'")
    return documents


def _read_before(documents: Mapping[str, bytes], bundle: BundleFiles, job: _Job) -> _Before:
    spec = job.spec
    facts = authoring.read_bundle(authoring.read_signed(documents[BUNDLE_FILE], BUNDLE_FILE))
    if (facts.bundle_type, facts.tag) != (spec.bundle_type, spec.tag):
        raise AuthoringError(
            f"the bundle in '{bundle.path}' is of type '{facts.bundle_type}' with tag "
            f"{facts.tag!r}; asked for type '{spec.bundle_type}' with tag {spec.tag!r}",
            hint="one bundle has one type and one tag; name another directory",
        )
    for name in (TARGETS_FILE, BUNDLE_FILE):
        _demand_own(documents.get(name, b""), f"'{name}' in '{bundle.path}'", job)
    targets = authoring.read_signed(documents[TARGETS_FILE], TARGETS_FILE)
    return _Before(documents, facts.targets, dict(targets.signed.get("targets", {})))


def _demand_own(document: bytes, what: str, job: _Job) -> None:
    """Refuse to re-sign what this factory did not sign: it would vouch for a stranger's Target."""
    own = key_id(job.online.targets.public)
    held = authoring.read_signed(document, what)
    if own not in authoring.valid_signers(held, authoring.targets_keys(job.root)):
        raise AuthoringError(
            f"{what} is not signed by this factory's online targets key {own}",
            hint="name an empty directory, or the keys that made this bundle",
        )


def _expiry(job: _Job, before: _Before) -> datetime:
    """Decide when the bundle ends; see `authoring.expiry`."""
    if job.keeps_targets:
        targets = job.held_targets(before).expires
        refresh = job.spec.refresh or "create the bundle anew and have it signed"
    else:
        targets, refresh = job.now + ROLE_LIFETIME, "renew the bundle later with --tuf-only"
    return authoring.expiry(
        job.now,
        job.spec.expires_in_days,
        root=job.root.expires,
        targets=targets,
        refresh=refresh,
        refresh_root=ROTATE_ROOT,
    )


def _renewed(before: _Before, spec: BundleSpec) -> Mapping[str, Any]:
    if spec.target not in before.listed:
        raise AuthoringError(
            f"the bundle in '{spec.destination}' lists no Target {spec.target!r}; it lists "
            f"{', '.join(before.listed)}",
        )
    return before.entries


def _add_content(desk: Desk, job: _Job, bundle: BundleFiles, before: _Before) -> Mapping[str, Any]:
    """Plan, check the room, copy; return the Targets the bundle then has."""
    with planned(desk, job.spec) as content:
        entries = _entries(job, before, content)
        add_content(desk, bundle, job.spec.target, content.load)
    return entries


@dataclass(frozen=True, slots=True)
class Load:
    """What is copied of a Target.

    Attributes:
        repo: the OSTree repository its commit is in.
        commit: 64 hex digits.
        apps: those that the bundle carries.
    """

    repo: Path
    commit: str
    apps: Sequence[NewApp]


def _warn_of_tag(desk: Desk, tag: str, tags: Sequence[str]) -> None:
    if tag and tags and tag not in tags:
        desk.warn(
            f"the Target gets tag {tag!r}; 'factory-config.yml' gives that branch "
            f"{', '.join(map(repr, tags))}",
            "devices with another tag refuse the bundle: is the branch the one you mean?",
        )


def add_content(desk: Desk, bundle: BundleFiles, target: str, load: Load) -> None:
    """Make sure that a Target's content fits, remember that it is on its way, and copy it.

    Raises:
        AuthoringError: it does not fit, or cannot be copied.
    """
    bundle.demand_room(load.repo, load.commit, load.apps)
    bundle.begin(target)
    copy_content(desk, bundle, load)


@dataclass(frozen=True, slots=True)
class Content:
    """What a Target consists of, found and not copied yet.

    Attributes:
        load: what the bundle carries of it.
        listed: the Target's Apps, planned; the bundle may carry fewer.
        sources: where the Apps come from.
    """

    load: Load
    listed: Sequence[NewApp]
    sources: Sources


@contextmanager
def planned(desk: Desk, spec: BundleSpec) -> Iterator[Content]:
    """Find a Target's commit and Apps; they can be copied as long as the context lasts.

    Raises:
        AuthoringError: something is missing or cannot go into a bundle.
    """
    if spec.ostree_repo is None or not spec.ref:
        raise AuthoringError(
            "an OSTree repository and a ref or commit are needed",
            hint="name them: --ostree-repo REPO with --ref R or --commit C",
        )
    demand_prefix(spec.registry_prefix)
    commit = desk.commits(spec.ostree_repo).resolve(spec.ref)
    sources = find_sources(
        desk, spec.git, spec.apps, prefix=spec.registry_prefix, version=_version(spec)
    )
    _warn_of_tag(desk, spec.tag, sources.tags)
    with desk.plan_apps(sources.apps, spec.images, spec.registry_prefix, spec.arch) as apps:
        load = Load(spec.ostree_repo, commit, _carried(desk, apps, sources))
        yield Content(load, apps, sources)


def copy_content(desk: Desk, bundle: BundleFiles, load: Load) -> None:
    """Copy a Target's commit and Apps; what is there is not read again."""

    def commit(progress: Progress) -> None:
        bundle.add_commit(load.repo, load.commit, progress)

    def apps(progress: Progress) -> None:
        bundle.add_apps(load.apps, progress)

    together("copying", [commit, apps] if load.apps else [commit], desk.progress)


def _entries(job: _Job, before: _Before, content: Content) -> Mapping[str, Any]:
    """Return the Targets of ``targets.json``: the factory's, or those there and one more."""
    if not job.spec.issued:
        entry = new_entry(job.spec, job.now, content)
        return authoring.merge_entries(before.entries, job.spec.target, entry)
    issued: Mapping[str, Any] = job.held_targets(before).signed["targets"]
    if gone := [name for name in before.listed if name not in issued]:
        raise AuthoringError(
            f"the bundle lists {', '.join(gone)}, which the factory's Targets do not have",
            hint="name an empty directory",
        )
    return issued


def new_entry(spec: BundleSpec, now: datetime, content: Content) -> dict[str, Any]:
    """Spell the Target that ``spec`` asks for; what a device would refuse is refused here.

    Raises:
        AuthoringError, BundleError: it cannot be a Target.
    """
    entry = authoring.target_entry(_new_target(spec, now, content))
    target_from_json(spec.target, entry)
    return entry


def demand_prefix(prefix: str) -> None:
    """Refuse what App URIs cannot begin with.

    Raises:
        AuthoringError: it is not ``<host>/<factory>``.
    """
    if not authoring.REGISTRY_PREFIX.fullmatch(prefix):
        raise AuthoringError(
            f"registry prefix {prefix!r} is not <host>/<factory>",
            hint=f"e.g. {DEFAULT_PREFIX}; devices accept exactly one path segment",
        )


def _version(spec: BundleSpec) -> int:
    return authoring.version_of(spec.target) if spec.version is None else spec.version


def _carried(desk: Desk, apps: Sequence[NewApp], sources: Sources) -> list[NewApp]:
    """Return the Apps the bundle carries; the Target lists all of them."""
    names = [app.ref.name for app in apps]
    if unknown := sources.fetch.unknown(names):
        desk.warn(
            f"the shortlist names {', '.join(unknown)}, and there is no such App",
            "correct 'app_shortlist' or FETCH_APPS_SHORTLIST in 'factory-config.yml'",
        )
    kept = sources.fetch.carried(names)
    return [app for app in apps if app.ref.name in kept]


def _new_target(spec: BundleSpec, now: datetime, content: Content) -> NewTarget:
    sources = content.sources
    refs = tuple(app.ref for app in content.listed)
    if len({ref.name for ref in refs}) < len(refs):
        raise AuthoringError(
            f"two Apps have the same name: {', '.join(sorted(ref.name for ref in refs))}",
            hint="an App is called as its directory, in git as elsewhere",
        )
    archs = {arch for app in content.listed for arch in app.archs}
    return NewTarget(
        name=spec.target,
        version=_version(spec),
        commit=content.load.commit,
        hardware_id=spec.hardware_id,
        tag=spec.tag,
        created=now,
        apps=refs,
        arch=archs.pop() if len(archs) == 1 else "",
        fetched=sources.fetch.to_json(spec.target, [ref.name for ref in refs]),
        containers_sha=sources.containers_sha,
    )


def _carried_roots(roots: Mapping[str, bytes], *, initial: bool) -> dict[str, bytes]:
    first = 1 if initial else FIRST_BRANCH_VERSION
    return {name: data for name, data in roots.items() if int(name.partition(".")[0]) >= first}


def _issue_targets(job: _Job, before: _Before, entries: Mapping[str, Any], version: int) -> bytes:
    if job.keeps_targets:
        return job.spec.issued or before.documents[TARGETS_FILE]
    signed = authoring.issue_targets(entries, version, job.now + ROLE_LIFETIME)
    return authoring.sign(signed, (job.online.targets,))


def _issue(
    job: _Job, before: _Before, targets: bytes, version: int, expires: datetime
) -> dict[str, bytes]:
    held = authoring.read_signed(targets, TARGETS_FILE)
    facts = replace(_facts(job, before, expires), version=held.version)
    final = _lacking(job.root, authoring.valid_signers(held, authoring.targets_keys(job.root))) == 0
    return authoring.issue(targets, facts, job.online, version=version, final=final)


def _facts(job: _Job, before: _Before, expires: datetime) -> BundleFacts:
    """Return what the bundle will say of itself; 0 stands for the version of its Targets."""
    spec = job.spec
    listed = tuple(dict.fromkeys((*before.listed, spec.target)))
    return BundleFacts(spec.bundle_type, spec.tag, listed, expires, 0)


def _request(job: _Job, before: _Before, entries: Mapping[str, Any], expires: datetime) -> str:
    """Name everything that is going to be signed, so that a repeated run signs the same."""
    spec, kept = job.spec, before.documents.get(TARGETS_FILE, b"") if job.keeps_targets else b""
    said = canonical_bytes(
        {
            "bundle": authoring.issue_bundle(_facts(job, before, expires)),
            "targets": {} if job.keeps_targets else dict(entries),
            "kept": hashlib.sha256(spec.issued or kept).hexdigest(),
            "root": job.root.version,
        }
    )
    ends = authoring.write_date(expires)
    return f"{spec.target}, tag {spec.tag}, ends {ends}, sha256 {hashlib.sha256(said).hexdigest()}"


# --- sign ------------------------------------------------------------------------------


def sign_bundle(desk: Desk, path: Path, archive: Path) -> BundleInfo:
    """Add one offline key's signature to a bundle.

    ``targets.json`` is signed as well when it still needs signatures (a production bundle
    made here): devices ask for the same threshold there. It is written before the
    bundle's own file, so that an interrupted signing is finished by repeating it.

    Raises:
        AuthoringError: the key is a stranger or has signed, or the bundle cannot be used.
    """
    bundle = desk.bundle(path)
    with bundle.alone("signs it"):
        documents = bundle.documents()
        root, key = offline_signer(desk, documents, path, archive)
        bundle.publish(sign_documents(documents, key, root))
    log.info("bundle.signed", path=str(path), keyid=key_id(key.public))
    return show_bundle(desk, path)


def offline_signer(
    desk: Desk, documents: Mapping[str, bytes], path: Path, archive: Path
) -> tuple[Root, PrivateKey]:
    """Return a bundle's newest root and the one key of ``archive`` that may sign by it.

    Raises:
        AuthoringError: the key is a stranger, or a signature would be of no use any more.
    """
    root = _bundle_root(documents, path)
    key = _signing_key(desk.read_archive(archive), root, archive)
    _demand_signable(desk.now(), documents, path)
    return root, key


def sign_documents(documents: Mapping[str, bytes], key: PrivateKey, root: Root) -> dict[str, bytes]:
    """Return those documents of a bundle that ``key`` has to sign, signed.

    Raises:
        AuthoringError: the key has signed, or the documents cannot be used.
    """
    return {**_sign_targets(documents, key, root), **_sign_list(documents, key, root)}


def _bundle_root(documents: Mapping[str, bytes], path: Path) -> Root:
    root = authoring.latest_root(documents)
    if not documents:
        raise _no_bundle(path)
    if root is None:
        raise AuthoringError(
            f"'{path}/tuf' has no '{FIRST_BRANCH_VERSION}.root.json', so nobody knows who may sign",
            hint="create the bundle with 'usb-update bundle create' or fioctl",
        )
    return authoring.read_root(root, "the bundle's newest root")


def _signing_key(found: Sequence[PrivateKey], root: Root, archive: Path) -> PrivateKey:
    allowed = authoring.targets_keys(root)
    fitting = [key for key in found if key in _same(allowed.values(), found)]
    if len(fitting) != 1:
        raise AuthoringError(
            f"'{archive}' holds {len(fitting)} targets keys of root version {root.version}; "
            f"expected one of {', '.join(sorted(allowed))}",
            hint="two keys in one archive defeat the threshold" if fitting else "",
        )
    return fitting[0]


def _same(allowed: Iterable[keys.PublicKey], found: Sequence[PrivateKey]) -> list[PrivateKey]:
    identities = {key.identity for key in allowed}
    return [key for key in found if key.public.identity in identities]


def _demand_signable(now: datetime, documents: Mapping[str, bytes], path: Path) -> None:
    for name in (TARGETS_FILE, BUNDLE_FILE):
        if name not in documents:
            raise AuthoringError(f"'{path}/tuf' has no '{name}': this is no whole bundle")
        ends = authoring.read_signed(documents[name], f"'{name}'").expires
        if ends <= now:
            raise AuthoringError(
                f"'{name}' expired at {authoring.write_date(ends)}; a signature would be of no use",
                hint="renew the bundle with 'bundle create --tuf-only', or create it anew",
            )


def _sign_targets(documents: Mapping[str, bytes], key: PrivateKey, root: Root) -> dict[str, bytes]:
    targets = authoring.read_signed(documents[TARGETS_FILE], TARGETS_FILE)
    signers = authoring.valid_signers(targets, authoring.targets_keys(root))
    if _lacking(root, signers) == 0 or key_id(key.public) in signers:
        return {}
    snapshot = authoring.read_signed(documents.get(SNAPSHOT_FILE, b""), f"'{SNAPSHOT_FILE}'")
    if "hashes" in snapshot.signed.get("meta", {}).get(TARGETS_FILE, {}):
        raise AuthoringError(
            f"'{TARGETS_FILE}' lacks signatures, but '{SNAPSHOT_FILE}' holds its hash already: "
            "one more signature would break it",
            hint="have the Targets signed where this bundle came from, then fetch it again",
        )
    return {TARGETS_FILE: authoring.add_signature(documents[TARGETS_FILE], key)}


def _sign_list(documents: Mapping[str, bytes], key: PrivateKey, root: Root) -> dict[str, bytes]:
    signers = bundle_signers(documents[BUNDLE_FILE], root.raw)
    if signers.refused:
        raise AuthoringError(
            f"'{BUNDLE_FILE}' carries a bad or strange signature by {', '.join(signers.refused)}; "
            "devices refuse it whoever else signs",
            hint="renew the bundle with 'bundle create --tuf-only'",
        )
    return {BUNDLE_FILE: authoring.add_signature(documents[BUNDLE_FILE], key)}


def _lacking(root: Root, signers: Sequence[str]) -> int:
    return max(0, root.roles[Role.TARGETS].threshold - len(signers))


# --- show ------------------------------------------------------------------------------


def show_bundle(desk: Desk, path: Path) -> BundleInfo:
    """Read what a bundle says of itself; signatures are counted when they hold.

    Raises:
        AuthoringError, BundleError: it is no bundle.
    """
    documents = desk.bundle(path).documents()
    if BUNDLE_FILE not in documents:
        raise _no_bundle(path)
    facts = authoring.read_bundle(authoring.read_signed(documents[BUNDLE_FILE], BUNDLE_FILE))
    raw_root = authoring.latest_root(documents) or documents.get("2.root.json")
    root = authoring.read_root(raw_root, "the bundle's newest root") if raw_root else None
    return BundleInfo(
        path=path,
        bundle_type=facts.bundle_type,
        tag=facts.tag,
        expires=facts.expires,
        listed=facts.targets,
        targets=_listed_targets(documents, facts.targets),
        expiries=_expiries(documents, root),
        signers=bundle_signers(documents[BUNDLE_FILE], raw_root) if raw_root else None,
        targets_missing=_targets_missing(documents, root) if root else 0,
        root_version=root.version if root else 0,
    )


def _no_bundle(path: Path) -> AuthoringError:
    return AuthoringError(
        f"'{path}/tuf' has no '{BUNDLE_FILE}': this is no bundle, or it is not finished",
        hint="name the directory that holds 'tuf'",
    )


def _listed_targets(documents: Mapping[str, bytes], listed: Sequence[str]) -> tuple[Target, ...]:
    if TARGETS_FILE not in documents:
        return ()
    entries = authoring.read_signed(documents[TARGETS_FILE], TARGETS_FILE).signed.get("targets", {})
    return tuple(target_from_json(name, entries[name]) for name in listed if name in entries)


def _expiries(documents: Mapping[str, bytes], root: Root | None) -> dict[str, datetime]:
    roles = (TARGETS_FILE, SNAPSHOT_FILE, TIMESTAMP_FILE)
    found = {
        name: authoring.read_signed(documents[name], f"'{name}'").expires
        for name in roles
        if name in documents
    }
    return {**({f"{root.version}.root.json": root.expires} if root else {}), **found}


def _targets_missing(documents: Mapping[str, bytes], root: Root) -> int:
    if TARGETS_FILE not in documents:
        return 0
    targets = authoring.read_signed(documents[TARGETS_FILE], TARGETS_FILE)
    return _lacking(root, authoring.valid_signers(targets, authoring.targets_keys(root)))


# --- verify ----------------------------------------------------------------------------


def check_bundle(desk: Desk, path: Path, device: DeviceGuess, *, deep: bool = False) -> Verdict:
    """Answer as a device would that meets this bundle for the first time.

    Args:
        desk: the author's.
        path: the bundle.
        device: which device to be.
        deep: read all content, too.

    Raises:
        DeviceError: there is no such directory, or the roots cannot be used.
    """
    bundle = desk.bundle(path)
    warnings = bundle.strays()
    try:
        chosen, others = _judge(desk, path, device)
    except BundleError as e:
        refused = Outcome(e.exit, "", e.reason, e.message, e.hint)
        return Verdict(refused, accepted=False, warnings=warnings)
    except _RefusedError as e:
        return Verdict(e.refusal.outcome(), accepted=False, warnings=warnings)
    to_read = (chosen,) if device.hardware_id else others
    if deep and (damaged := bundle.damaged(to_read, desk.progress)):
        outcome = _damaged_outcome(chosen, damaged)
        return Verdict(outcome, accepted=False, warnings=warnings, damaged=damaged)
    outcome = Outcome(CheckExit.UPDATE_FOUND, chosen.name, "accepted", version=chosen.version)
    return Verdict(outcome, accepted=True, warnings=warnings)


def demand_roots(desk: Desk, device: DeviceGuess) -> None:
    """Refuse a directory named for a device's roots that holds none: a word was mistyped.

    Raises:
        AuthoringError: it holds none.
    """
    if device.roots is not None and not desk.roots(device.roots, device.bundle_type):
        kind = device.bundle_type or BundleType.CI
        raise AuthoringError(
            f"'{device.roots}' holds no roots: there is no '{kind.value}/1.root.json' in it",
            hint="name the directory that holds 'ci' and 'prod': 'roots' of the keys, or of the "
            "image, /usr/lib/sota/tuf",
        )


class _RefusedError(Exception):
    """A device would decide not to install."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def _judge(desk: Desk, path: Path, device: DeviceGuess) -> tuple[Target, tuple[Target, ...]]:
    """Return the Target the device would install, and all the bundle lists."""
    medium = desk.medium(path)
    provisioned = desk.roots(device.roots, device.bundle_type) if device.roots else ()
    verified = verify_bundle(
        medium.read(),
        TrustedDocuments(roots=verify_roots(dict(provisioned))),
        device_type=device.bundle_type,
        device_tags=device.tags,
        now=desk.now(),
    )
    inventory = medium.inventory(verified.targets)
    decisions = [
        select_target(
            verified.targets,
            inventory,
            DeviceFacts(hardware_id, device.tags, unknown_target(""), ""),
        )
        for hardware_id in _hardware_ids(device, verified.targets)
    ]
    best = max(decisions, key=_merit)
    if isinstance(best, Refusal):
        raise _RefusedError(best)
    return best, verified.targets


def _hardware_ids(device: DeviceGuess, targets: Sequence[Target]) -> tuple[str, ...]:
    """Return the hardware IDs to try: the one asked for, or every one the bundle is for."""
    if device.hardware_id or not targets:
        return (device.hardware_id,)
    single = [target.hardware_ids[0] for target in targets if len(target.hardware_ids) == 1]
    return tuple(dict.fromkeys(single)) or ("",)


def _merit(decision: Target | Refusal) -> tuple[int, int]:
    """Rank decisions: an installable Target first, then the refusal that came furthest."""
    if isinstance(decision, Target):
        return (1000, decision.version)
    return (int(decision.exit), -1)


def _damaged_outcome(target: Target, damaged: Sequence[str]) -> Outcome:
    more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
    return Outcome(
        InstallExit.PULL_FAILED,
        target.name,
        "content_damaged",
        f"{damaged[0]}{more}",
        "copy the bundle to the stick again",
        target.version,
    )
