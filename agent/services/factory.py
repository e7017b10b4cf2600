"""A factory in a directory: Targets, waves, keys, and the bundles that are made of them.

In: a `FactoryDesk` and what is wanted. Every act changes the factory's books once, under
their lock, and leaves one entry in their history. Content is copied before a Target is
written down, keys before a root names them: whoever interrupts an act leaves bytes that
nothing refers to, never a reference to what is not there.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from agent.core import authoring, factory
from agent.core.authoring import AuthoringError
from agent.core.bundletype import BundleType
from agent.core.factory import CI_FILE, Books, Wave
from agent.core.keys import ED25519, PrivateKey, key_id
from agent.core.target import AppRef, Target, target_from_json
from agent.core.tuf import Role, Root
from agent.core.verify import verify_roots
from agent.log import get_logger
from agent.services import author
from agent.services.author import DEFAULT_DAYS, DEFAULT_ROOT_DAYS, BundleInfo, BundleSpec
from agent.services.desk import Desk, NewApp

log = get_logger()

KEYS = "keys"
ONLINE = (Role.SNAPSHOT, Role.TIMESTAMP)  # whose only key signs without a person
REPO = "ostree_repo"
STORE = "apps"


class FactoryBooks(Protocol):
    """The books of a factory, and who may write where."""

    @property
    def exists(self) -> bool:
        """Whether there is a factory."""

    def create(self, books: Mapping[str, bytes], message: str) -> None:
        """Open the books of a new factory."""

    def read(self) -> dict[str, bytes]:
        """Return the books as of the newest act."""

    def change(self, act: Callable[[Books], str]) -> dict[str, bytes]:
        """Let ``act`` change the books, alone; keep them under the message it returns."""

    def copying(self) -> AbstractContextManager[None]:
        """Hold the OSTree repository and the Apps for writing, alone."""


@dataclass(frozen=True, slots=True)
class FactoryDesk:
    """An author's desk with a factory on it.

    Attributes:
        desk: the author's.
        books: of the factory in a directory.
        read_archives: of an archive or a directory of them: where a key is, and the key.
        put_key: writes an archive with one key of a role, where none is.
        rename_archive: gives an archive another name in its directory.
        move_archives: moves archives into another directory.
        stored_apps: finds Apps in a store.
    """

    desk: Desk
    books: Callable[[Path], FactoryBooks]
    read_archives: Callable[[Path], tuple[tuple[Path, PrivateKey], ...]]
    put_key: Callable[[Path, str, PrivateKey], None]
    rename_archive: Callable[[Path, str], None]
    move_archives: Callable[[Sequence[Path], Path], None]
    stored_apps: Callable[[Path, Sequence[AppRef]], AbstractContextManager[tuple[NewApp, ...]]]


@dataclass(frozen=True, slots=True)
class FactoryBundle:
    """What ``bundle create --factory-dir`` is asked for; see `author.BundleSpec`.

    Attributes:
        factory: the directory.
        wave: name of an active wave, instead of ``tag``.
        ostree_repo: where the commit is; None takes the factory's own repository.
        no_apps: rootfs only, for devices that run no Apps.
    """

    factory: Path
    target: str
    destination: Path
    tag: str = ""
    prod: bool = False
    wave: str = ""
    ostree_repo: Path | None = None
    no_apps: bool = False
    expires_in_days: int = DEFAULT_DAYS
    tuf_only: bool = False
    allow_multiple_targets: bool = False
    with_initial_roots: bool = False


@dataclass(frozen=True, slots=True)
class FactoryInfo:
    """What a factory holds.

    Attributes:
        path: its directory.
        targets: CI Targets.
        production: tag to its production Targets.
        waves: all there have been.
        roots: the newest of each type.
        versions: the metadata versions issued last, by type.
    """

    path: Path
    targets: tuple[Target, ...]
    production: Mapping[str, tuple[Target, ...]]
    waves: tuple[Wave, ...]
    roots: Mapping[BundleType, Root]
    versions: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """A key, what it is for, and where its private half is.

    Attributes:
        role: of the newest roots; empty for a key that no longer counts.
        keyid: 64 hex digits.
        keytype: ``ED25519`` or ``RSA``.
        online: whether it signs without a person.
        archive: where its private half is; None when it is not here.
    """

    role: str
    keyid: str
    keytype: str
    online: bool
    archive: Path | None


# --- the factory -----------------------------------------------------------------------


def init(  # noqa: PLR0913  all but the first two are options, and named
    desk: FactoryDesk,
    directory: Path,
    *,
    keytype: str = ED25519,
    expires_in_days: int = DEFAULT_ROOT_DAYS,
    prefix: str = author.DEFAULT_PREFIX,
    keep_keys: bool = False,
) -> FactoryInfo:
    """Make a factory: keys, both root chains, and its books.

    Args:
        desk: the author's.
        directory: new or empty, or with ``keep_keys`` one that `author.make_keys` made.
        keytype: of all keys.
        expires_in_days: of the roots.
        prefix: ``<host>/<factory>`` of its Apps' URIs.
        keep_keys: take the keys and versions that are there.

    Raises:
        AuthoringError: the directory has content, or is a factory.
    """
    author.demand_prefix(prefix)
    if not keep_keys and (directory / KEYS).is_dir() and not desk.books(directory).exists:
        raise AuthoringError(
            f"'{directory}' holds keys already; keys are never overwritten",
            hint="--keep-keys makes a factory of them; else name a new directory",
        )
    if not keep_keys:
        author.make_keys(desk.desk, directory, keytype=keytype, expires_in_days=expires_in_days)
    held = desk.desk.keys(directory)
    roots = {kind: held.roots(kind) for kind in BundleType}
    state = authoring.write_versions(held.versions())
    books = factory.new_books(roots, state, prefix)
    desk.books(directory).create(books, "factory init")
    return show(desk, directory)


def show(desk: FactoryDesk, directory: Path) -> FactoryInfo:
    """Read what a factory holds."""
    books = desk.books(directory).read()
    tags = factory.production_tags(books)
    return FactoryInfo(
        directory,
        factory.targets_of(books, CI_FILE),
        {tag: factory.targets_of(books, factory.production_file(tag)) for tag in tags},
        factory.waves_of(books),
        {kind: factory.newest_root(books, kind) for kind in BundleType},
        factory.issued_versions(books).highest,
    )


def add_target(desk: FactoryDesk, directory: Path, spec: BundleSpec) -> FactoryInfo:
    """Copy a Target's content into the factory and list it among the CI Targets.

    A Target that is listed with the same content stays as it is, tags included; the CI
    Targets are issued anew and last longer.

    Args:
        desk: the author's.
        directory: the factory.
        spec: the Target and its content; what it says of a bundle does not matter.

    Raises:
        AuthoringError: it cannot be a Target, or its name stands for other content.
    """
    books, now = desk.books(directory), desk.desk.now()
    key = _online_targets(desk, directory)
    spec = replace(spec, registry_prefix=spec.registry_prefix or _prefix(books))
    with author.planned(desk.desk, spec) as content:
        spec = replace(spec, tag=spec.tag or _tag_of_branch(content.sources.tags))
        entry = author.new_entry(spec, now, content)

        def act(changed: Books) -> str:
            factory.add_target(changed, spec.target, entry, key, now)
            return f"target add {spec.target} ({spec.tag}): commit {content.load.commit[:12]}"

        act(books.read())  # refused before anything is copied
        with books.copying():
            store = desk.desk.bundle(directory)
            load = content.load
            store.demand_room(load.repo, load.commit, load.apps)
            author.copy_content(desk.desk, store, load)
    books.change(act)
    return show(desk, directory)


def _tag_of_branch(tags: Sequence[str]) -> str:
    if len(tags) == 1:
        return tags[0]
    found = f"'factory-config.yml' gives the branch {len(tags)}" if tags else "none is named"
    raise AuthoringError(
        f"the Target needs one tag, and {found}",
        hint=f"name it with --tag{': ' if tags else ''}{', '.join(tags)}",
    )


def _prefix(books: FactoryBooks) -> str:
    return factory.registry_prefix(books.read())


def tag_target(desk: FactoryDesk, directory: Path, target: str, tags: Sequence[str]) -> FactoryInfo:
    """Give a CI Target other tags.

    Raises:
        AuthoringError: there is no such Target, or a tag cannot be one.
    """
    key, now = _online_targets(desk, directory), desk.desk.now()

    def act(books: Books) -> str:
        factory.tag_target(books, target, tags, key, now)
        return f"tag {target}: {', '.join(tags) or 'none'}"

    desk.books(directory).change(act)
    return show(desk, directory)


# --- waves -----------------------------------------------------------------------------


def start_wave(
    desk: FactoryDesk, directory: Path, wave: Wave, expires: datetime, places: Sequence[Path] = ()
) -> int:
    """Make a wave and sign it with every targets key at hand.

    Args:
        desk: the author's.
        directory: the factory.
        wave: its name, Targets, and tag; an empty tag takes the only one its Targets have.
        expires: of its targets metadata, UTC.
        places: archives, or directories of them, with offline keys.

    Returns:
        How many signatures it still lacks.

    Raises:
        AuthoringError: as `factory.start_wave`.
    """
    online = _online_targets(desk, directory)
    offline = _offline_targets_keys(desk, directory, places, online)
    wave = replace(wave, tag=wave.tag or _only_tag(desk.books(directory).read(), wave))

    def act(books: Books) -> str:
        factory.start_wave(books, wave, expires, (online, *offline))
        return f"wave init {wave.name} ({wave.tag}): {', '.join(wave.targets)}"

    return _missing(desk.books(directory).change(act), wave.name)


def sign_wave(desk: FactoryDesk, directory: Path, name: str, places: Sequence[Path]) -> int:
    """Add the signatures of offline keys to a wave; return how many it still lacks.

    Raises:
        AuthoringError: there is no such wave, or no key that may sign and has not.
    """
    online = _online_targets(desk, directory)
    offline = _offline_targets_keys(desk, directory, places, online)
    if not offline:
        raise AuthoringError(
            "no offline targets key is at hand", hint="name its archive with --keys"
        )

    def act(books: Books) -> str:
        for key in offline:
            factory.sign_wave(books, name, key)
        return f"wave sign {name}: {', '.join(key_id(key.public)[:12] for key in offline)}"

    return _missing(desk.books(directory).change(act), name)


def complete_wave(desk: FactoryDesk, directory: Path, name: str) -> None:
    """Turn a wave's Targets into the production Targets of its tag.

    Raises:
        AuthoringError: there is no such active wave, or signatures are missing.
    """

    def act(books: Books) -> str:
        factory.complete_wave(books, name)
        return f"wave complete {name}"

    desk.books(directory).change(act)


def cancel_wave(desk: FactoryDesk, directory: Path, name: str) -> None:
    """End a wave; production stays as it is.

    Raises:
        AuthoringError: there is no such active wave.
    """

    def act(books: Books) -> str:
        factory.cancel_wave(books, name)
        return f"wave cancel {name}"

    desk.books(directory).change(act)


def _only_tag(books: Mapping[str, bytes], wave: Wave) -> str:
    listed = factory.targets_of(books, CI_FILE)
    tags = {tag for target in listed if target.name in wave.targets for tag in target.tags}
    if len(tags) != 1:
        raise AuthoringError(
            f"{', '.join(wave.targets)}: {len(tags)} tags ({', '.join(sorted(tags)) or 'none'}); "
            "a wave is for one",
            hint="name it with --tag",
        )
    return tags.pop()


def _missing(books: Mapping[str, bytes], name: str) -> int:
    root = factory.newest_root(books, BundleType.PROD)
    return factory.missing_signatures(books[factory.wave_file(name)], root)


def _offline_targets_keys(
    desk: FactoryDesk, directory: Path, places: Sequence[Path], online: PrivateKey
) -> tuple[PrivateKey, ...]:
    """Return the targets keys of the newest production root at hand, but the online one."""
    root = factory.newest_root(desk.books(directory).read(), BundleType.PROD)
    wanted = set(root.roles[Role.TARGETS].keyids) - {key_id(online.public)}
    at_hand = _at_hand(desk, directory, places)
    return tuple(at_hand[keyid][1] for keyid in sorted(wanted & set(at_hand)))


def _at_hand(
    desk: FactoryDesk, directory: Path, places: Sequence[Path]
) -> dict[str, tuple[Path, PrivateKey]]:
    """Return key id to archive and key, of the factory's own archives and of ``places``."""
    found: dict[str, tuple[Path, PrivateKey]] = {}
    for place in (directory / KEYS, *places):
        for archive, key in desk.read_archives(place):
            found.setdefault(key_id(key.public), (archive, key))
    return found


# --- bundles ---------------------------------------------------------------------------


def create_bundle(desk: FactoryDesk, asked: FactoryBundle) -> BundleInfo:
    """Make, extend or renew a bundle of a factory's Targets.

    The factory's own ``targets.json`` goes into it, with its signatures and its expiry; the
    list, snapshot and timestamp are the bundle's.

    Raises:
        AuthoringError: as `author.create_bundle`, or the factory has no such Target.
    """
    books = desk.books(asked.factory).read()
    offer = factory.offer(books, asked.target, tag=asked.tag, prod=asked.prod, wave=asked.wave)
    listed = authoring.read_signed(offer.document, "the factory's 'targets.json'").signed["targets"]
    target = target_from_json(asked.target, listed[asked.target])
    apps = () if asked.no_apps else _carried(target)
    spec = BundleSpec(
        target=asked.target,
        destination=asked.destination,
        keys=asked.factory,
        tag=offer.tag,
        bundle_type=offer.bundle_type,
        version=target.version,
        ostree_repo=asked.ostree_repo or asked.factory / REPO,
        ref=target.commit,
        expires_in_days=asked.expires_in_days,
        tuf_only=asked.tuf_only,
        allow_multiple_targets=asked.allow_multiple_targets,
        with_initial_roots=asked.with_initial_roots,
        issued=offer.document,
        refresh=offer.refresh,
    )

    def plan(*_: object, **__: object) -> AbstractContextManager[tuple[NewApp, ...]]:
        return desk.stored_apps(asked.factory / STORE, apps)

    return author.create_bundle(replace(desk.desk, plan_apps=plan), spec)


def _carried(target: Target) -> tuple[AppRef, ...]:
    """Return the Apps that the Target itself says a bundle carries."""
    if target.fetched is None:
        return target.apps
    return tuple(app for app in target.apps if app.name in target.fetched)


# --- keys ------------------------------------------------------------------------------


def list_keys(desk: FactoryDesk, directory: Path, places: Sequence[Path] = ()) -> list[KeyPlace]:
    """Say of every key what it is for and where its private half is."""
    roots = [author.latest(desk.desk.keys(directory).roots(kind)) for kind in BundleType]
    at_hand = _at_hand(desk, directory, places)
    online = {key_id(key.public) for key in _online(desk.desk, directory)}
    named = [
        KeyPlace(role.value, keyid, _type_of(roots, keyid), keyid in online, _where(at_hand, keyid))
        for role in Role
        for keyid in sorted({k for root in roots for k in root.roles[role].keyids})
    ]
    used = {place.keyid for place in named}
    return named + [
        KeyPlace("", keyid, key.public.keytype, online=False, archive=archive)
        for keyid, (archive, key) in at_hand.items()
        if keyid not in used
    ]


def _online_targets(desk: FactoryDesk, directory: Path) -> PrivateKey:
    """Return the online targets key; that there is no factory is told before a missing key."""
    desk.books(directory).read()
    return desk.desk.keys(directory).online().targets


def _online(desk: Desk, directory: Path) -> tuple[PrivateKey, ...]:
    held = desk.keys(directory).online()
    return held.targets, held.snapshot, held.timestamp


def _type_of(roots: Sequence[Root], keyid: str) -> str:
    return next((root.keys[keyid].keytype for root in roots if keyid in root.keys), "unknown")


def _where(at_hand: Mapping[str, tuple[Path, PrivateKey]], keyid: str) -> Path | None:
    return at_hand[keyid][0] if keyid in at_hand else None


def take_offline(desk: FactoryDesk, directory: Path, destination: Path) -> tuple[Path, ...]:
    """Move every key that does not sign without a person out of the directory.

    Returns:
        The archives, where they were.

    Raises:
        AuthoringError: there is none, or one cannot be moved; it is then still here.
    """
    online = {key_id(key.public) for key in _online(desk.desk, directory)}
    held = desk.read_archives(directory / KEYS)
    stays = {archive for archive, key in held if key_id(key.public) in online}
    leaving = tuple(dict.fromkeys(archive for archive, _ in held if archive not in stays))
    if not leaving:
        raise AuthoringError(f"'{directory / KEYS}' holds no offline keys; they are out already")
    desk.move_archives(leaving, destination)
    if desk.books(directory).exists:
        names = ", ".join(archive.name for archive in leaving)
        desk.books(directory).change(lambda _: f"keys offline: {names}")
    log.info("keys.offline", directory=str(directory), destination=str(destination))
    return leaving


def rotate_key(  # noqa: PLR0913  all but the first three are options, and named
    desk: FactoryDesk,
    directory: Path,
    role: Role,
    *,
    places: Sequence[Path] = (),
    keytype: str = ED25519,
    expires_in_days: int = DEFAULT_ROOT_DAYS,
) -> tuple[int, Path]:
    """Put a new key in the place of the one of a role: of targets, the offline one.

    The new key is on disk before a root names it, and lies where the old one lies, or the
    root key; the old one is kept beside it under another name.

    Args:
        desk: the author's.
        directory: the factory.
        role: whose key.
        places: archives, or directories of them, with offline keys.
        keytype: of the new key.
        expires_in_days: of the new roots; with a new root key alone, as is custom.

    Returns:
        The new root version and the new key's archive.

    Raises:
        AuthoringError: the root key is not at hand, or the keys of the role are not the
            usual ones.
    """
    books = desk.books(directory)
    root = factory.newest_root(books.read(), BundleType.PROD)
    at_hand = _at_hand(desk, directory, places)
    if begun := _begun_online(desk, directory, root, role):
        return root.version, _renamed(desk, role, *begun)
    root_at, root_key = _demand_at_hand(at_hand, sorted(root.roles[Role.ROOT].keyids))
    old = _leaving(desk, directory, root, role)
    old_at = at_hand[old][0] if old in at_hand else None
    new = author.new_key(keytype)
    path = (old_at or root_at).with_name(f"new-{role}-{key_id(new.public)[:12]}.tgz")
    desk.put_key(path, role.value, new)
    ends = desk.desk.now() + timedelta(days=expires_in_days) if role is Role.ROOT else None

    def act(changed: Books) -> str:
        signers = (root_key, new) if role is Role.ROOT else (root_key,)
        version = factory.rotate(changed, role, old, new, signers=signers, expires=ends)
        _demand_accepted(changed)
        return f"keys rotate {role}: {old[:12]} -> {key_id(new.public)[:12]}, root {version}"

    after = books.change(act)
    final = _renamed(desk, role, old, old_at, path)
    return factory.newest_root(after, BundleType.PROD).version, final


def _renamed(desk: FactoryDesk, role: Role, old: str, old_at: Path | None, new_at: Path) -> Path:
    """Give the archives of a rotation their names, the new one's last; return it."""
    if old_at:
        desk.rename_archive(old_at, f"old-{role}-{old[:12]}.tgz")
    name = f"{'online' if role in ONLINE else 'offline'}-{role}.tgz"
    desk.rename_archive(new_at, name)
    return new_at.with_name(name)


def _begun_online(
    desk: FactoryDesk, directory: Path, root: Root, role: Role
) -> tuple[str, Path | None, Path] | None:
    """Return what an interrupted rotation of an online key left to rename: old and new."""
    if role not in ONLINE:
        return None
    usual = directory / KEYS / f"online-{role}.tgz"
    held = desk.read_archives(directory / KEYS)
    if any(key_id(key.public) in root.roles[role].keyids for at, key in held if at == usual):
        return None
    waiting = [at for at, key in held if key_id(key.public) in root.roles[role].keyids]
    old = next((key_id(key.public) for at, key in held if at == usual), "")
    return (old, usual if old else None, waiting[0]) if waiting else None


def _leaving(desk: FactoryDesk, directory: Path, root: Root, role: Role) -> str:
    """Return the id of the one key of a role that is replaced."""
    kind = "online" if role in ONLINE else "offline"
    online = {key_id(key.public) for key in _online(desk.desk, directory)}
    fitting = [k for k in root.roles[role].keyids if (k in online) == (role in ONLINE)]
    if len(fitting) != 1:
        raise AuthoringError(
            f"root version {root.version} lists {len(fitting)} {kind} {role} keys; expected one"
        )
    return fitting[0]


def _demand_at_hand(
    at_hand: Mapping[str, tuple[Path, PrivateKey]], keyids: Sequence[str]
) -> tuple[Path, PrivateKey]:
    for keyid in keyids:
        if keyid in at_hand:
            return at_hand[keyid]
    raise AuthoringError(
        f"the root key {', '.join(keyids)} is not at hand",
        hint="name its archive, or the directory it was moved to, with --keys",
    )


def _demand_accepted(books: Mapping[str, bytes]) -> None:
    """Make sure that a device which holds any of the roots follows the chain to its end."""
    for kind in BundleType:
        documents = list(factory.roots_of(books, kind).values())
        if len(verify_roots(dict(enumerate(documents, 1)))) != len(documents):
            raise AuthoringError(f"devices would not follow the {kind} root chain to its end")
