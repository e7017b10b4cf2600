"""``sql.db``: trusted TUF documents and Target versions, shared with aktualizr-lite.

SQLite, the tables and columns of aktualizr's schema 25, so that both agents can take
turns on one device (docs/hybrid.md). `SotaTrust` and `SotaVersions` fill two ports over
one `SotaDatabase`. Every port call is one transaction. What cannot be read is a
`StateError`: a damaged database is never replaced and never leads to trust on first use.

Source: reference-behaviour §7.4, §10.2.
"""

import json
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.adapters import files
from agent.core.errors import AgentError, StateError
from agent.core.target import (
    COMMIT,
    INITIAL_NAME,
    AppRef,
    Target,
    target_from_custom,
    unknown_target,
)
from agent.log import get_logger

if TYPE_CHECKING:
    from agent.core.bundle import TrustedDocuments

log = get_logger()

SCHEMA_VERSION = 25
BUSY_TIMEOUT_S = 10.0  # aktualizr-lite writes for milliseconds; longer means that it hangs
IMPORT_LIMIT_BYTES = 8 << 20  # a factory's list holds one Target, rarely ten
IMAGE_REPO = 0
ROOT, SNAPSHOT, TARGETS, TIMESTAMP = range(4)  # the column meta_type
DAMAGED = "restore the file; remove it only to provision the device anew"
NO_VERSION = -1  # aktualizr keys only roots by their version

Flags = tuple[int, int, int]
"""The columns is_current, is_pending, was_installed of one row."""
CURRENT: Flags = (1, 0, 1)
PENDING: Flags = (0, 1, 0)
FAILED: Flags = (0, 0, 0)

# The tables aktualizr expects of schema 25; those that this agent never fills included.
# rollback_migrations stays empty: an aktualizr older than schema 25 then refuses the file
# instead of turning it back with statements nobody has tried.
SCHEMA = """
CREATE TABLE version(version INTEGER);
CREATE TABLE device_info(
  unique_mark INTEGER PRIMARY KEY CHECK (unique_mark = 0), device_id TEXT,
  is_registered INTEGER NOT NULL DEFAULT 0 CHECK (is_registered IN (0,1)));
CREATE TABLE ecus(
  id INTEGER PRIMARY KEY, serial TEXT UNIQUE, hardware_id TEXT NOT NULL,
  is_primary INTEGER NOT NULL DEFAULT 0 CHECK (is_primary IN (0,1)));
CREATE TABLE secondary_ecus(
  serial TEXT PRIMARY KEY, sec_type TEXT, public_key_type TEXT, public_key TEXT, extra TEXT,
  manifest TEXT);
CREATE TABLE misconfigured_ecus(
  serial TEXT UNIQUE, hardware_id TEXT NOT NULL,
  state INTEGER NOT NULL CHECK (state IN (0,1)));
CREATE TABLE installed_versions(
  id INTEGER PRIMARY KEY, ecu_serial TEXT NOT NULL, sha256 TEXT NOT NULL, name TEXT NOT NULL,
  hashes TEXT NOT NULL, length INTEGER NOT NULL DEFAULT 0,
  correlation_id TEXT NOT NULL DEFAULT '',
  is_current INTEGER NOT NULL CHECK (is_current IN (0,1)) DEFAULT 0,
  is_pending INTEGER NOT NULL CHECK (is_pending IN (0,1)) DEFAULT 0,
  was_installed INTEGER NOT NULL CHECK (was_installed IN (0,1)) DEFAULT 0,
  custom_meta TEXT NOT NULL DEFAULT '');
CREATE TABLE primary_keys(
  unique_mark INTEGER PRIMARY KEY CHECK (unique_mark = 0), private TEXT, public TEXT);
CREATE TABLE tls_creds(
  ca_cert BLOB, ca_cert_format TEXT, client_cert BLOB, client_cert_format TEXT,
  client_pkey BLOB, client_pkey_format TEXT);
CREATE TABLE meta(
  meta BLOB NOT NULL, repo INTEGER NOT NULL, meta_type INTEGER NOT NULL,
  version INTEGER NOT NULL, UNIQUE(repo, meta_type, version));
CREATE TABLE target_images(
  targetname TEXT PRIMARY KEY, real_size INTEGER NOT NULL DEFAULT 0,
  sha256 TEXT NOT NULL DEFAULT '', sha512 TEXT NOT NULL DEFAULT '', filename TEXT NOT NULL);
CREATE TABLE repo_types(repo INTEGER NOT NULL, repo_string TEXT NOT NULL);
CREATE TABLE meta_types(meta INTEGER NOT NULL, meta_string TEXT NOT NULL);
CREATE TABLE device_installation_result(
  unique_mark INTEGER PRIMARY KEY CHECK (unique_mark = 0), success INTEGER NOT NULL DEFAULT 0,
  result_code TEXT NOT NULL DEFAULT '', description TEXT NOT NULL DEFAULT '',
  raw_report TEXT NOT NULL DEFAULT '', correlation_id TEXT NOT NULL DEFAULT '');
CREATE TABLE ecu_installation_results(
  ecu_serial TEXT NOT NULL PRIMARY KEY, success INTEGER NOT NULL DEFAULT 0,
  result_code TEXT NOT NULL DEFAULT '', description TEXT NOT NULL DEFAULT '');
CREATE TABLE need_reboot(
  unique_mark INTEGER PRIMARY KEY CHECK (unique_mark = 0), flag INTEGER NOT NULL DEFAULT 0);
CREATE TABLE rollback_migrations(version_from INT PRIMARY KEY, migration TEXT NOT NULL);
CREATE TABLE delegations(meta BLOB NOT NULL, role_name TEXT NOT NULL, UNIQUE(role_name));
CREATE TABLE ecu_report_counter(
  ecu_serial TEXT NOT NULL PRIMARY KEY, counter INTEGER NOT NULL DEFAULT 0);
CREATE TABLE report_events(id INTEGER PRIMARY KEY, json_string TEXT NOT NULL);
CREATE TABLE device_data(data_type TEXT PRIMARY KEY, hash TEXT NOT NULL);
INSERT INTO repo_types VALUES(0, 'images'), (1, 'director');
INSERT INTO meta_types VALUES(0, 'root'), (1, 'snapshot'), (2, 'targets'), (3, 'timestamp');
INSERT INTO version VALUES(25);
"""

Roots = Callable[[], tuple[tuple[int, bytes], ...]]
"""Gives provisioned roots, for a device that trusts none yet."""


class SotaDatabase:
    """The file ``sql.db``.

    Args:
        path: where it is; it is made at the first use, whole or not at all.
        busy_timeout_s: how long to wait for another writer.
    """

    def __init__(self, path: Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self.path = path
        self._busy_timeout_s = busy_timeout_s
        self._checked = False

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """See one state of the database.

        Raises:
            StateError: it is damaged, busy or of another schema.
        """
        with self._transaction("BEGIN") as db:
            yield db

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Change the database: all of it when the block ends, nothing when it raises.

        Raises:
            StateError: it is damaged, busy, of another schema, or its disk is full.
        """
        with self._transaction("BEGIN IMMEDIATE") as db:
            yield db

    def register(self, hardware_id: str, serial: str = "") -> None:
        """Record who this device is, once and for all; later calls change nothing.

        Args:
            hardware_id: from the configuration, or the host name.
            serial: from the configuration; empty draws a random UUID.
        """
        with self.writing() as db:
            if _primary(db) is None:
                row = (serial or _new_serial(), hardware_id)
                db.execute("INSERT INTO ecus VALUES(0, ?, ?, 1)", row)
                log.info("device.registered", hardware_id=hardware_id)

    def copy_to(self, copy: Path) -> None:
        """Write the database's state to a new file; nothing when there is none.

        Raises:
            StateError: it is damaged, busy or of another schema.
        """
        if _exists(self.path):
            with self.reading() as db, closing(sqlite3.connect(copy)) as written:
                db.backup(written)

    def client_certificate(self) -> bytes | None:
        """Return the TLS client certificate an importing agent left here."""
        with self.reading() as db:
            row = db.execute("SELECT client_cert FROM tls_creds").fetchone()
        if row is None or not row[0]:
            return None
        return _blob(row[0])

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        try:
            with closing(self._open()) as db:
                db.execute(begin)
                self._check(db)
                try:
                    yield db
                    db.execute("COMMIT")
                except BaseException:
                    _roll_back(db)
                    raise
        except sqlite3.Error as e:
            raise _unusable(self.path, e) from e

    def _open(self) -> sqlite3.Connection:
        if not _exists(self.path):
            _create(self.path)
        # mode=rw: an empty database must not spring up where the file has just vanished.
        uri = f"{self.path.absolute().as_uri()}?mode=rw"
        db = sqlite3.connect(uri, uri=True, timeout=self._busy_timeout_s, isolation_level=None)
        # A commit survives a power cut, the removal of its journal included.
        db.execute("PRAGMA synchronous=EXTRA")
        db.execute("PRAGMA trusted_schema=OFF")
        return db

    def _check(self, db: sqlite3.Connection) -> None:
        """Look at the whole file once in the life of this process."""
        if self._checked:
            return
        if self.path.stat().st_size == 0:
            raise _lost(f"'{self.path}' is empty")
        verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise _lost(f"'{self.path}' is damaged: {verdict}")
        _check_schema(db, self.path)
        self._checked = True


class SotaTrust:
    """ports.Trust in ``sql.db``."""

    def __init__(self, database: SotaDatabase, provisioned: Roots = tuple) -> None:
        self._database = database
        self._provisioned = provisioned

    def documents(self) -> "TrustedDocuments":
        """Return what was verified before; provisioned roots when no root ever was.

        Raises:
            StateError: the database or a provisioned root cannot be read.
        """
        from agent.core.bundle import TrustedDocuments  # noqa: PLC0415  not for an idle `run`

        with self._database.reading() as db:
            roots = tuple(
                (int(version), _blob(meta))
                for version, meta in db.execute(
                    "SELECT CAST(version AS INTEGER) AS number, meta FROM meta"
                    " WHERE repo=? AND meta_type=? ORDER BY number",
                    (IMAGE_REPO, ROOT),
                )
            )
            timestamp, snapshot, targets = (
                _document(db, meta_type) for meta_type in (TIMESTAMP, SNAPSHOT, TARGETS)
            )
        return TrustedDocuments(roots or self._provisioned(), timestamp, snapshot, targets)

    def remember(self, documents: "TrustedDocuments") -> None:
        """Replace what is trusted, all or nothing."""
        roles = ((SNAPSHOT, documents.snapshot), (TARGETS, documents.targets),
                 (TIMESTAMP, documents.timestamp))  # fmt: skip
        rows = [(meta, IMAGE_REPO, ROOT, version) for version, meta in documents.roots]
        rows += [(meta, IMAGE_REPO, kind, NO_VERSION) for kind, meta in roles if meta is not None]
        with self._database.writing() as db:
            db.execute("DELETE FROM meta WHERE repo=?", (IMAGE_REPO,))
            db.executemany("INSERT INTO meta VALUES(?, ?, ?, ?)", rows)


class SotaVersions:
    """ports.Versions in ``sql.db``.

    Args:
        database: the file; `SotaDatabase.register` was called once.
        on_current: told about each Target that became the current one.
    """

    def __init__(
        self, database: SotaDatabase, on_current: Callable[[Target], None] = lambda _: None
    ) -> None:
        self._database = database
        self._on_current = on_current

    def hardware_id(self) -> str:
        """Return the device's hardware ID, as first recorded."""
        with self._database.reading() as db:
            return _registered(db)[1]

    def current(self, booted_commit: str) -> Target:
        """Return the Target this boot runs.

        The row marked current when it has the booted commit, else the newest row with
        that commit, else an unknown Target.
        """
        with self._database.reading() as db:
            return _current(db, booted_commit)

    def ensure_initial(self, booted_commit: str, apps: Sequence[AppRef]) -> None:
        """Record what runs as "Initial Target" when nothing recorded names it."""
        with self._database.writing() as db:
            if _newest(db, "sha256=?", (booted_commit,)) is None:
                hardware_id = _registered(db)[1]
                target = _initial_target(booted_commit, hardware_id, apps)
                _save(db, target, CURRENT)
                log.info("target.recorded", target=target.name, commit=booted_commit)

    def pending(self) -> Target | None:
        """Return the Target that waits for ``run``."""
        with self._database.reading() as db:
            return _newest(db, "is_pending=1")

    def reboot_needed(self) -> bool:
        """Whether the pending Target was staged for a boot that had not come yet."""
        with self._database.reading() as db:
            return db.execute("SELECT 1 FROM need_reboot WHERE flag=1").fetchone() is not None

    def has_failed(self, target: Target) -> bool:
        """Whether this Target was tried here and never succeeded."""
        with self._database.reading() as db:
            tried, installed, pending = db.execute(
                "SELECT COUNT(*), TOTAL(was_installed), TOTAL(is_pending AND sha256=?)"
                " FROM installed_versions WHERE name=?",
                (target.commit, target.name),
            ).fetchone()
        return tried > 0 and not installed and not pending

    def rollback_target(self, failed: Target) -> Target | None:
        """Return the newest Target that succeeded here, other than ``failed``."""
        where = "was_installed=1 AND NOT (sha256=? AND name=?)"
        with self._database.reading() as db:
            return _newest(db, where, (failed.commit, failed.name))

    def save_pending(self, target: Target, *, needs_reboot: bool, correlation_id: str) -> None:
        """Record ``target`` as waiting for ``run``."""
        with self._database.writing() as db:
            db.execute("UPDATE installed_versions SET is_pending=0")
            _save(db, target, PENDING, correlation_id=correlation_id)
            db.execute("DELETE FROM need_reboot")
            if needs_reboot:
                db.execute("INSERT INTO need_reboot VALUES(0, 1)")

    def save_current(self, target: Target) -> None:
        """Record ``target`` as the one that runs; nothing is pending."""
        with self._database.writing() as db:
            db.execute("UPDATE installed_versions SET is_current=0, is_pending=0")
            _save(db, target, CURRENT)
            db.execute("DELETE FROM need_reboot")
        self._on_current(target)

    def save_failed(self, target: Target) -> None:
        """Record ``target`` as tried without success; nothing is pending."""
        with self._database.writing() as db:
            db.execute("UPDATE installed_versions SET is_pending=0")
            _save(db, target, FAILED)
            db.execute("DELETE FROM need_reboot")

    def import_installed(self, path: Path, *, remove: bool = True) -> None:
        """Take over the Target a factory image names in ``installed_versions``, once.

        Nothing is done without the file, or when any version is recorded already. The
        file is removed only after its Target is recorded.

        Args:
            path: JSON: Target name to ``{"hashes": {"sha256": ...}, "is_current": true, ...}``.
            remove: off for a mere look, which records it in a copy.

        Raises:
            StateError: the file cannot be understood; nothing was recorded.
        """
        if not path.is_file() or self._any_recorded():
            return
        target = _factory_target(path)
        if target is not None:
            self.save_current(target)
            if remove:
                files.remove_durably(path)
            log.info("target.imported", target=target.name, commit=target.commit)

    def _any_recorded(self) -> bool:
        with self._database.reading() as db:
            return db.execute("SELECT 1 FROM installed_versions").fetchone() is not None


# --- the file ---------------------------------------------------------------------------


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as e:
        raise StateError(f"'{path}' cannot be looked at: {e.strerror}") from e


def _check_schema(db: sqlite3.Connection, path: Path) -> None:
    row = db.execute("SELECT version FROM version").fetchone()
    if row is None or row[0] != SCHEMA_VERSION:
        found = "none" if row is None else repr(row[0])
        raise StateError(
            f"'{path}' has schema version {found}, expected {SCHEMA_VERSION}",
            hint="let a current aktualizr-lite start once to migrate it, or update this agent",
        )


def _lost(what: str) -> StateError:
    return StateError(f"{what}; what the device trusts and runs is not known", hint=DAMAGED)


def _create(path: Path) -> None:
    """Make a new database beside its place and move it there whole.

    So a file without tables is always a damaged one, never one in the making.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(fd)
        temporary = Path(name)
        try:
            with closing(sqlite3.connect(temporary, isolation_level=None)) as db:
                db.execute("PRAGMA synchronous=EXTRA")
                db.executescript(f"BEGIN;{SCHEMA}COMMIT;")
            # A link, unlike a rename, never replaces a database another agent made meanwhile.
            os.link(temporary, path)
        except FileExistsError:
            return
        finally:
            temporary.unlink()
        files.sync_directory(path.parent)
    except OSError as e:
        raise StateError(f"'{path}' cannot be made: {e.strerror}") from e
    log.info("database.created", path=str(path))


def _roll_back(db: sqlite3.Connection) -> None:
    if db.in_transaction:
        db.execute("ROLLBACK")


def _unusable(path: Path, error: sqlite3.Error) -> StateError:
    hints = {
        sqlite3.SQLITE_BUSY: "another agent holds it: stop aktualizr-lite, then try again",
        sqlite3.SQLITE_FULL: "free some space, then try again",
        sqlite3.SQLITE_CANTOPEN: "check its directory's owner and mode",
        sqlite3.SQLITE_READONLY: "mount its file system read-write",
    }
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    return StateError(f"'{path}' cannot be used: {error}", hint=hints.get(code, DAMAGED))


# --- rows -------------------------------------------------------------------------------


def _blob(value: bytes | str) -> bytes:
    """Return a column's bytes; aktualizr binds blobs, a person with a shell writes text."""
    return value if isinstance(value, bytes) else str(value).encode()


def _document(db: sqlite3.Connection, meta_type: int) -> bytes | None:
    row = db.execute(
        "SELECT meta FROM meta WHERE repo=? AND meta_type=? ORDER BY version DESC",
        (IMAGE_REPO, meta_type),
    ).fetchone()
    return _blob(row[0]) if row else None


def _primary(db: sqlite3.Connection) -> tuple[str, str] | None:
    row = db.execute("SELECT serial, hardware_id FROM ecus ORDER BY is_primary DESC, id").fetchone()
    return row and (str(row[0]), str(row[1]))


def _new_serial() -> str:
    import uuid  # noqa: PLC0415  once in a device's life

    return str(uuid.uuid4())


def _registered(db: sqlite3.Connection) -> tuple[str, str]:
    """Return (serial, hardware ID)."""
    primary = _primary(db)
    if primary is None:
        raise StateError("the device's hardware ID is not recorded in the table 'ecus'")
    return primary


def _current(db: sqlite3.Connection, commit: str) -> Target:
    marked = _newest(db, "is_current=1")
    if marked is not None and marked.commit == commit:
        return marked
    return _newest(db, "sha256=?", (commit,)) or unknown_target(commit)


def _newest(db: sqlite3.Connection, where: str, values: tuple[object, ...] = ()) -> Target | None:
    rows = "SELECT id, name, sha256, custom_meta FROM installed_versions"
    row = db.execute(f"{rows} WHERE {where} ORDER BY id DESC", values).fetchone()
    return _target(*row) if row else None


def _target(row_id: int, name: str, sha256: str, custom_meta: str) -> Target:
    """Read a row, also one that aktualizr-lite wrote.

    Raises:
        StateError: it is not a Target this agent could have installed.
    """
    try:
        custom = json.loads(custom_meta) if custom_meta else {}
        return target_from_custom(str(name), _commit(sha256), custom or {})
    except (AgentError, ValueError, TypeError, AttributeError, RecursionError) as e:
        raise StateError(
            f"row {row_id} of 'installed_versions' is not a Target: {e}",
            hint="restore sql.db; a factory reset of the device also mends it",
        ) from e


def _commit(text: str) -> str:
    """Return a commit in lower case.

    Raises:
        ValueError: it is not 64 hex digits.
    """
    commit = str(text).lower()
    if not COMMIT.fullmatch(commit):
        raise ValueError(f"the commit {commit[:80]!r} is not 64 hex digits")
    return commit


def _save(
    db: sqlite3.Connection, target: Target, flags: Flags, *, correlation_id: str = ""
) -> None:
    """Write a Target's row: the last row when it is this Target's, else a new one."""
    last = db.execute(
        "SELECT id, sha256, name, correlation_id FROM installed_versions ORDER BY id DESC"
    ).fetchone()
    if last and last[1:3] == (target.commit, target.name):
        db.execute(
            "UPDATE installed_versions SET correlation_id=?, is_current=?, is_pending=?,"
            " was_installed=?, custom_meta=? WHERE id=?",
            (correlation_id or last[3], *flags, target.custom_json, last[0]),
        )
        return
    serial = _registered(db)[0]
    hashes = f"sha256:{target.commit.upper()}"
    db.execute(
        "INSERT INTO installed_versions(ecu_serial, sha256, name, hashes, length, correlation_id,"
        " is_current, is_pending, was_installed, custom_meta) VALUES(?, ?, ?, ?, 0, ?, ?, ?, ?, ?)",
        (serial, target.commit, target.name, hashes, correlation_id, *flags, target.custom_json),
    )


def _initial_target(commit: str, hardware_id: str, apps: Sequence[AppRef]) -> Target:
    custom: dict[str, Any] = {"hardwareIds": [hardware_id], "targetFormat": "OSTREE"}
    if apps:
        custom["docker_compose_apps"] = {app.name: {"uri": app.uri} for app in apps}
    return target_from_custom(INITIAL_NAME, commit, custom)


def _factory_target(path: Path) -> Target | None:
    """Return the Target that ``installed_versions`` calls current."""
    try:
        entries = json.loads(files.read_bounded(path, limit=IMPORT_LIMIT_BYTES))
        current = [(name, entry) for name, entry in entries.items() if entry.get("is_current")]
        return _imported(*current[0]) if current else None
    except (AgentError, files.NotRegularError, files.TooLargeError, OSError, ValueError,
            KeyError, TypeError, AttributeError, RecursionError) as e:  # fmt: skip
        raise StateError(
            f"'{path}' is not a list of installed Targets: {e}",
            hint="correct it, or remove it to start from what is booted",
        ) from e


def _imported(name: str, entry: dict[str, Any]) -> Target:
    return target_from_custom(name, _commit(entry["hashes"]["sha256"]), entry.get("custom") or {})
