"""Private keys for authoring: fioctl's key archives, and the directory that holds a factory's.

A key archive is a gzip tar of ``tufrepo/keys/fioctl-<role>-<keyid>.pub`` and ``.sec``.
Archives and their entries are readable by their owner only. The directory also holds both
root chains and the counter of issued metadata versions, which never goes back: a device
refuses metadata older than what it has seen.
"""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.adapters import files
from agent.core import keys
from agent.core.authoring import (
    FIRST_BRANCH_VERSION,
    AuthoringError,
    ChainKeys,
    IssuedVersions,
    OnlineKeys,
    read_versions,
    write_versions,
)
from agent.core.bundletype import BundleType
from agent.core.keys import PrivateKey, key_id

ARCHIVE_LIMIT_BYTES = 1024 * 1024  # a 4096-bit RSA pair takes 4 kB
ENTRY_LIMIT_BYTES = 64 * 1024
ENTRY_LIMIT = 64  # pairs of keys in one archive, times two
ROOT_LIMIT_BYTES = 512_000
ROOTS_LIMIT = 1000
STATE_LIMIT_BYTES = 64 * 1024
PRIVATE = 0o600

STATE_FILE = "state.json"
LOCK_FILE = ".lock"
OFFLINE = ("first-root", "offline-root", "offline-targets")
ONLINE = ("online-targets", "online-snapshot", "online-timestamp")


# --- archives --------------------------------------------------------------------------


def write_archive(path: Path, pairs: Sequence[tuple[str, PrivateKey]]) -> None:
    """Write a key archive, mode 0600.

    Args:
        path: where; must not exist.
        pairs: role (``root``, ``targets``, ...) and key.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for role, key in pairs:
            stem = f"tufrepo/keys/fioctl-{role}-{key_id(key.public)}"
            _add(tar, f"{stem}.pub", key.public.to_json())
            _add(tar, f"{stem}.sec", key.secret_json())
    files.write_atomic(path, buffer.getvalue(), mode=PRIVATE)


def read_archive(path: Path) -> tuple[PrivateKey, ...]:
    """Read every key pair of a key archive, whatever its entries' directory.

    Raises:
        AuthoringError: it is missing, no key archive, or a ``.sec`` does not fit its
            ``.pub``.
    """
    try:
        entries = _entries(files.read_bounded(path, limit=ARCHIVE_LIMIT_BYTES))
    except (OSError, EOFError, tarfile.TarError, files.NotRegularError, files.TooLargeError) as e:
        raise AuthoringError(
            f"'{path}' cannot be read as a key archive: {files.why(e, path)}",
            hint="give a .tgz made by 'usb-update keys init' or fioctl",
        ) from e
    found = [_pair(name, entries, path) for name in entries if name.endswith(".pub")]
    if not found:
        raise AuthoringError(f"'{path}' holds no keys: expected entries ending in '.pub'")
    return tuple(found)


def private_from_json(value: Mapping[str, Any]) -> PrivateKey:
    """Read a private key as ``.sec`` files spell it.

    Raises:
        ValueError: it is spelt otherwise, or no device would count it.
    """
    text = str(value["keyval"]["private"])
    match str(value["keytype"]).upper():
        case keys.ED25519:
            # 128 digits are the seed and the public key, as Go's library keeps them.
            return keys.ed25519_from_seed(bytes.fromhex(text)[: keys.ED25519_SEED_BYTES])
        case keys.RSA:
            return keys.private_key(_rsa(text))
    raise ValueError(f"key type {str(value['keytype'])[:20]!r} is not ED25519 or RSA")


def _rsa(pem: str) -> Any:  # noqa: ANN401  narrowed by the caller's type check
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        load_pem_private_key,
    )

    key = load_pem_private_key(pem.encode(), password=None)
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("expected an RSA private key")  # noqa: TRY004  as for other bad files
    return key


def _add(tar: tarfile.TarFile, name: str, value: Mapping[str, Any]) -> None:
    data = json.dumps(value, separators=(",", ":")).encode()
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), PRIVATE
    tar.addfile(entry, io.BytesIO(data))


def _entries(data: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        for entry in tar:
            if entry.isfile() and entry.name.endswith((".pub", ".sec")):
                found[entry.name] = _content(tar, entry)
            if len(found) > ENTRY_LIMIT:
                raise tarfile.TarError(f"more than {ENTRY_LIMIT} keys")
    return found


def _content(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(entry)
    if entry.size > ENTRY_LIMIT_BYTES or stream is None:
        raise tarfile.TarError(f"entry {entry.name[:80]!r} is too large for a key")
    return stream.read()


def _pair(name: str, entries: Mapping[str, bytes], path: Path) -> PrivateKey:
    secret = name.replace(".pub", ".sec", 1)
    if secret not in entries:
        raise AuthoringError(f"'{path}' has '{name}' but not its private half '{secret}'")
    try:
        key = private_from_json(json.loads(entries[secret]))
        public = keys.key_from_json(json.loads(entries[name]))
    # Never quote the content: it is a private key.
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise AuthoringError(f"'{name}' or '{secret}' in '{path}' is not a usable key") from e
    if key.public != public:
        raise AuthoringError(f"'{secret}' in '{path}' is not the private half of '{name}'")
    return key


def read_archives(place: Path) -> tuple[tuple[Path, PrivateKey], ...]:
    """Read every key of an archive, or of all archives in a directory, with where it is.

    Raises:
        AuthoringError: an archive cannot be read, or there is none.
    """
    archives = sorted(place.glob("*.tgz")) if place.is_dir() else [place]
    return tuple((archive, key) for archive in archives for key in read_archive(archive))


def move_archives(names: Sequence[Path], directory: Path) -> None:
    """Move key archives into another directory, each read back there before it goes here.

    Raises:
        AuthoringError: another file is in the way, or something cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for archive in names:
            _move(archive, directory / archive.name)
    except (OSError, files.NotRegularError, files.TooLargeError) as e:
        raise AuthoringError(
            f"keys cannot be moved to '{directory}': {files.why(e, directory)}"
        ) from e


def _move(source: Path, destination: Path) -> None:
    data = files.read_bounded(source, limit=ARCHIVE_LIMIT_BYTES)
    if not destination.exists():
        files.write_atomic(destination, data, mode=PRIVATE)
    if files.read_bounded(destination, limit=ARCHIVE_LIMIT_BYTES) != data:
        raise AuthoringError(
            f"'{destination}' is there and differs from '{source}'; keys are never overwritten",
            hint="name an empty directory",
        )
    read_archive(destination)
    files.remove_durably(source)


def put_key(path: Path, role: str, key: PrivateKey) -> None:
    """Write a key archive where none is.

    Raises:
        AuthoringError: there is one, or it cannot be written.
    """
    if path.exists():
        raise AuthoringError(f"'{path}' is there already; keys are never overwritten")
    try:
        write_archive(path, [(role, key)])
    except OSError as e:
        raise AuthoringError(f"key archive '{path}' cannot be written: {files.why(e, path)}") from e


def rename_archive(source: Path, name: str) -> None:
    """Give a key archive another name in its directory; one of that name stays.

    Raises:
        AuthoringError: there is one of that name, or the directory cannot be written.
    """
    destination = source.with_name(name)
    try:
        if destination.exists():
            raise AuthoringError(f"'{destination}' is there already; keys are never overwritten")
        source.rename(destination)
        files.sync_directory(destination.parent)
    except OSError as e:
        raise AuthoringError(
            f"'{source}' cannot be renamed to '{name}': {files.why(e, source)}"
        ) from e


# --- the keys directory ----------------------------------------------------------------


class KeysDirectory:
    """A factory's keys, root chains and version counter, in one directory.

    ``keys/*.tgz`` archives, ``roots/{ci,prod}/N.root.json``, ``state.json``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, chain: ChainKeys, roots: Mapping[BundleType, Sequence[bytes]]) -> None:
        """Write a new factory.

        Raises:
            AuthoringError: the directory has content already.
        """
        try:
            self._demand_empty()
            for bundle_type, documents in roots.items():
                self._write_chain(bundle_type, documents)
            self._write_keys(chain)
        except OSError as e:
            raise AuthoringError(
                f"keys cannot be written to '{self.path}': {files.why(e, self.path)}"
            ) from e

    def archive(self, name: str) -> Path:
        """Where the archive ``name`` of `OFFLINE` or `ONLINE` is."""
        return self.path / "keys" / f"{name}.tgz"

    def roots(self, bundle_type: BundleType) -> dict[str, bytes]:
        """Return ``N.root.json`` to bytes, from version 1 to the latest.

        Raises:
            AuthoringError: there are none.
        """
        found: dict[str, bytes] = {}
        for version in range(1, ROOTS_LIMIT):
            name = f"{version}.root.json"
            try:
                found[name] = files.read_bounded(
                    self.path / "roots" / bundle_type.value / name, limit=ROOT_LIMIT_BYTES
                )
            except FileNotFoundError:
                break  # how the chain ends
            except (OSError, files.NotRegularError, files.TooLargeError) as e:
                raise AuthoringError(
                    f"root chain of '{self.path}' cannot be read: {files.why(e)}"
                ) from e
        if not found:
            raise AuthoringError(
                f"'{self.path}' holds no factory's keys: there is no "
                f"'roots/{bundle_type.value}/1.root.json'",
                hint="name the directory that 'usb-update keys init' or 'factory init' made",
            )
        if len(found) < FIRST_BRANCH_VERSION:
            raise AuthoringError(
                f"'{self.path}/roots/{bundle_type.value}' has {len(found)} root versions; "
                f"expected {FIRST_BRANCH_VERSION} or more",
                hint="make keys with 'usb-update keys init DIR'",
            )
        return found

    def online(self) -> OnlineKeys:
        """Return the keys that sign without a person.

        Raises:
            AuthoringError: an archive is missing or holds another number of keys than one.
        """
        targets, snapshot, timestamp = (self._single(name) for name in ONLINE)
        return OnlineKeys(targets, snapshot, timestamp)

    def versions(self) -> IssuedVersions:
        """Return the versions issued so far.

        Raises:
            AuthoringError: the counter is lost.
        """
        return self._state()

    def reserve_version(self, bundle_type: BundleType, above: int, request: str = "") -> int:
        """Take the next metadata version, durably; see `IssuedVersions.next`.

        Raises:
            AuthoringError: another process is at it, or the counter is lost or at its end.
        """
        try:
            with files.locked(self.path / LOCK_FILE):
                versions, version = self._state().next(bundle_type, above=above, request=request)
                self._save(versions)
        except BlockingIOError as e:
            raise AuthoringError(
                f"another process is taking a version from '{self.path}'",
                hint="try again",
            ) from e
        return version

    def _demand_empty(self) -> None:
        if self.path.exists() and any(self.path.iterdir()):
            raise AuthoringError(
                f"'{self.path}' is not empty; keys are never overwritten",
                hint="name a new directory",
            )
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _write_chain(self, bundle_type: BundleType, documents: Sequence[bytes]) -> None:
        directory = self.path / "roots" / bundle_type.value
        directory.mkdir(parents=True)
        for version, document in enumerate(documents, 1):
            files.write_atomic(directory / f"{version}.root.json", document, mode=0o644)

    def _write_keys(self, chain: ChainKeys) -> None:
        self.archive("").parent.mkdir(mode=0o700)
        for name, role, key in (
            ("first-root", "root", chain.first_root),
            ("offline-root", "root", chain.root),
            ("offline-targets", "targets", chain.offline_targets),
            ("online-targets", "targets", chain.targets),
            ("online-snapshot", "snapshot", chain.snapshot),
            ("online-timestamp", "timestamp", chain.timestamp),
        ):
            write_archive(self.archive(name), [(role, key)])
        self._save(IssuedVersions())

    def _single(self, name: str) -> PrivateKey:
        pairs = read_archive(self.archive(name))
        if len(pairs) != 1:
            raise AuthoringError(f"'{self.archive(name)}' holds {len(pairs)} keys; expected one")
        return pairs[0]

    def _state(self) -> IssuedVersions:
        path = self.path / STATE_FILE
        try:
            data = files.read_bounded(path, limit=STATE_LIMIT_BYTES)
        except (OSError, files.NotRegularError, files.TooLargeError) as e:
            raise AuthoringError(
                f"'{path}' does not hold the versions issued so far: {files.why(e, path)}",
                hint="restore it from a backup; devices refuse versions that go back",
            ) from e
        return read_versions(data, f"'{path}'")

    def _save(self, versions: IssuedVersions) -> None:
        files.write_atomic(self.path / STATE_FILE, write_versions(versions), mode=PRIVATE)
