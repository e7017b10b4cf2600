"""``sql.db`` on the disk: its schema, its neighbours, damage, and a pulled plug."""

import json
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from agent.adapters.sotadb import SotaDatabase, SotaTrust, SotaVersions
from agent.core.bundle import TrustedDocuments
from agent.core.errors import StateError
from agent.core.target import AppRef, Target, target_from_custom

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT.parent / "shared" / "data" / "sample-sql.db"
HARDWARE_ID = "raspberrypi4-64"
WEB = AppRef("web", "hub.example.org/factory/web@sha256:" + "c" * 64)


def a_target(number: int) -> Target:
    return target_from_custom(f"lmp-{number}", f"{number:064x}", {"version": str(number)})


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as db, db:
        yield db


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with opened(path) as db:
        return db.execute(query).fetchall()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sql.db"


@pytest.fixture
def database(path: Path) -> SotaDatabase:
    database = SotaDatabase(path)
    database.register(HARDWARE_ID, "serial-1")
    return database


class TestSample:
    """A database that the program we are compatible with has written."""

    @pytest.fixture
    def sample(self, path: Path) -> SotaDatabase:
        if not SAMPLE.exists():
            pytest.skip(f"needs the optional sample '{SAMPLE.name}' beside the project")
        shutil.copyfile(SAMPLE, path)
        return SotaDatabase(path)

    def test_we_make_the_tables_it_has(self, sample: SotaDatabase, tmp_path: Path) -> None:
        SotaDatabase(tmp_path / "new.db").register(HARDWARE_ID)

        assert self.columns(sample.path) == self.columns(tmp_path / "new.db")

    @staticmethod
    def columns(path: Path) -> dict[object, list[tuple[object, ...]]]:
        with opened(path) as db:
            names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE sql!=''")]
            return {
                name: [
                    # SQLite quotes a text default the way it was written: '' or "".
                    tuple(str(item).replace('"', "'") for item in column)
                    for column in db.execute("SELECT * FROM pragma_table_info(?)", (name,))
                ]
                for name in names
            }

    @pytest.mark.parametrize(
        "query",
        ["SELECT * FROM version", "SELECT * FROM repo_types", "SELECT * FROM meta_types"],
    )
    def test_we_fill_the_tables_of_words_alike(
        self, sample: SotaDatabase, tmp_path: Path, query: str
    ) -> None:
        SotaDatabase(tmp_path / "new.db").register(HARDWARE_ID)

        assert rows(sample.path, query) == rows(tmp_path / "new.db", query)

    def test_we_read_its_versions(self, sample: SotaDatabase) -> None:
        versions = SotaVersions(sample)
        commit = "3f447b3505b70bd39ddbbe42c2e2cf0bc12bb06fd902aef82acf1f06f38ad6da"

        current = versions.current(commit)

        assert current.name == "raspberrypi4-64-lmp-2"
        assert current.version == 2
        assert [app.name for app in current.apps] == ["app-01", "app-02"]
        assert versions.hardware_id() == HARDWARE_ID
        assert versions.pending() is None
        assert not versions.has_failed(current)
        initial = versions.rollback_target(current)
        assert initial is not None
        assert initial.name == "Initial Target"

    def test_we_read_its_documents(self, sample: SotaDatabase) -> None:
        documents = SotaTrust(sample).documents()

        assert [version for version, _ in documents.roots] == [1]
        roles = (documents.timestamp, documents.snapshot, documents.targets)
        kinds = [json.loads(role or b"")["signed"]["_type"] for role in roles]
        assert kinds == ["Timestamp", "Snapshot", "Targets"]

    def test_what_we_write_into_it_has_its_form(self, sample: SotaDatabase) -> None:
        SotaTrust(sample).remember(SotaTrust(sample).documents())
        SotaVersions(sample).save_pending(
            a_target(3), needs_reboot=True, correlation_id="3-some-uuid"
        )

        assert rows(sample.path, "SELECT repo, meta_type, version FROM meta ORDER BY 2") == [
            (0, 0, 1),
            (0, 1, -1),
            (0, 2, -1),
            (0, 3, -1),
        ]
        query = "SELECT * FROM installed_versions WHERE id=3"
        commit = a_target(3).commit
        assert rows(sample.path, query) == [
            (3, "test_primary_ecu_serial_id", commit, "lmp-3", f"sha256:{commit.upper()}", 0,
             "3-some-uuid", 0, 1, 0, '{"version":"3"}')
        ]  # fmt: skip
        assert rows(sample.path, "SELECT * FROM need_reboot") == [(0, 1)]


class TestFile:
    def test_it_is_made_for_its_owner_alone(self, database: SotaDatabase) -> None:
        assert stat.S_IMODE(database.path.stat().st_mode) == 0o600
        assert sorted(item.name for item in database.path.parent.iterdir()) == ["sql.db"]

    def test_its_directory_is_made(self, tmp_path: Path) -> None:
        SotaDatabase(tmp_path / "var" / "sota" / "sql.db").register(HARDWARE_ID)

        assert (tmp_path / "var" / "sota" / "sql.db").is_file()

    def test_the_device_is_registered_once(self, database: SotaDatabase) -> None:
        database.register("another-board", "serial-2")

        assert rows(database.path, "SELECT * FROM ecus") == [(0, "serial-1", HARDWARE_ID, 1)]

    def test_a_serial_is_drawn_when_none_is_given(self, path: Path) -> None:
        SotaDatabase(path).register(HARDWARE_ID)

        [(serial,)] = rows(path, "SELECT serial FROM ecus")
        assert len(str(serial)) == 36

    def test_an_unregistered_device_is_told(self, path: Path) -> None:
        with pytest.raises(StateError, match="hardware ID"):
            SotaVersions(SotaDatabase(path)).hardware_id()

    def test_the_client_certificate_is_found(self, database: SotaDatabase) -> None:
        assert database.client_certificate() is None
        with opened(database.path) as db:
            db.execute("INSERT INTO tls_creds(client_cert) VALUES('text')")

        assert database.client_certificate() == b"text"

    def test_another_agents_journal_mode_is_left_alone(self, database: SotaDatabase) -> None:
        assert rows(database.path, "PRAGMA journal_mode") == [("delete",)]
        assert rows(database.path, "PRAGMA journal_mode=WAL") == [("wal",)]

        SotaVersions(database).save_current(a_target(1))

        assert rows(database.path, "PRAGMA journal_mode") == [("wal",)]
        assert SotaVersions(database).current(a_target(1).commit) == a_target(1)


class TestDamage:
    """Never a fresh start, never trust on first use."""

    def refused(self, path: Path) -> StateError:
        before = path.read_bytes()
        with pytest.raises(StateError) as caught:
            SotaTrust(SotaDatabase(path), lambda: ((1, b"provisioned"),)).documents()
        with pytest.raises(StateError):
            SotaVersions(SotaDatabase(path)).save_current(a_target(1))
        assert before == path.read_bytes()
        assert str(path) in caught.value.message
        assert caught.value.hint
        return caught.value

    def test_an_empty_file(self, path: Path) -> None:
        path.write_bytes(b"")

        assert "is empty" in self.refused(path).message

    def test_a_file_of_something_else(self, path: Path) -> None:
        path.write_bytes(b"not a database" * 1000)

        self.refused(path)

    @pytest.mark.parametrize("keep", [50, 100, 4096, 5000, 20_000])
    def test_a_file_cut_short(self, database: SotaDatabase, keep: int) -> None:
        SotaTrust(database).remember(TrustedDocuments(((1, b"x" * 30_000),)))
        data = database.path.read_bytes()
        database.path.write_bytes(data[:keep])

        self.refused(database.path)

    def test_a_page_of_noise(self, database: SotaDatabase) -> None:
        for number in range(60):
            SotaVersions(database).save_failed(a_target(number))
        data = bytearray(database.path.read_bytes())
        with opened(database.path) as db:
            query = "SELECT rootpage FROM sqlite_master WHERE name='installed_versions'"
            [(page,)] = db.execute(query).fetchall()
        data[(page - 1) * 4096 : page * 4096] = b"\xa5" * 4096
        database.path.write_bytes(data)

        self.refused(database.path)

    def test_a_table_that_is_gone(self, database: SotaDatabase) -> None:
        with opened(database.path) as db:
            db.execute("DROP TABLE meta")
            db.execute("DROP TABLE installed_versions")

        self.refused(database.path)

    @pytest.mark.parametrize("version", [24, 26, None])
    def test_another_schema(self, database: SotaDatabase, version: int | None) -> None:
        with opened(database.path) as db:
            db.execute("DELETE FROM version")
            if version:
                db.execute("INSERT INTO version VALUES(?)", (version,))

        told = self.refused(database.path)

        assert f"schema version {version or 'none'}, expected 25" in told.message
        assert "aktualizr-lite" in told.hint

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            ("custom_meta", "{"),
            ("custom_meta", "[1]"),
            ("custom_meta", "[" * 100_000),
            ("custom_meta", '{"docker_compose_apps": {"../x": {"uri": "y"}}}'),
            ("sha256", "../../etc"),
            ("custom_meta", b"\xff"),
        ],
    )
    def test_a_row_that_is_no_target(
        self, database: SotaDatabase, column: str, value: object
    ) -> None:
        versions = SotaVersions(database)
        versions.save_current(a_target(1))
        with opened(database.path) as db:
            db.execute(f"UPDATE installed_versions SET {column}=?", (value,))  # noqa: S608

        with pytest.raises(StateError, match="installed_versions"):
            versions.current(a_target(1).commit)

    def test_rows_aktualizr_leaves_half_empty_are_understood(self, database: SotaDatabase) -> None:
        versions = SotaVersions(database)
        versions.save_current(a_target(1))
        for custom in ("", "null", '{"docker_compose_apps": null, "ecuIdentifiers": null}'):
            with opened(database.path) as db:
                db.execute("UPDATE installed_versions SET custom_meta=?", (custom,))

            assert versions.current(a_target(1).commit).name == "lmp-1"

    def test_a_database_another_agent_holds_is_told(self, database: SotaDatabase) -> None:
        impatient = SotaVersions(SotaDatabase(database.path, busy_timeout_s=0.05))
        with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")

            with pytest.raises(StateError) as caught:
                impatient.save_current(a_target(1))

        assert "stop aktualizr-lite" in caught.value.hint

    def test_a_database_that_vanishes_is_not_trusted_anew_in_the_same_breath(
        self, path: Path
    ) -> None:
        path.symlink_to("nowhere")

        with pytest.raises(StateError):
            SotaTrust(SotaDatabase(path)).documents()

    def test_a_directory_that_cannot_be_made_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")

        with pytest.raises(StateError, match=r"sql\.db"):
            SotaDatabase(tmp_path / "file" / "sota" / "sql.db").register(HARDWARE_ID)


class TestImport:
    def factory_list(self, tmp_path: Path, text: str) -> Path:
        path = tmp_path / "installed_versions"
        path.write_text(text)
        return path

    def entry(self, *, is_current: bool = True) -> dict[str, object]:
        return {
            "hashes": {"sha256": ("a" * 64).upper()},
            "length": 0,
            "is_current": is_current,
            "custom": {"version": "7", "docker_compose_apps": {"web": {"uri": WEB.uri}}},
        }

    def test_a_flashed_target_is_taken_over_once(
        self, database: SotaDatabase, tmp_path: Path
    ) -> None:
        old, new = self.entry(is_current=False), self.entry()
        path = self.factory_list(tmp_path, json.dumps({"lmp-6": old, "lmp-7": new}))
        versions = SotaVersions(database)

        versions.import_installed(path)
        versions.import_installed(path)

        current = versions.current("a" * 64)
        assert (current.name, current.version, current.apps) == ("lmp-7", 7, (WEB,))
        assert not path.exists()

    def test_a_device_with_a_history_keeps_it(self, database: SotaDatabase, tmp_path: Path) -> None:
        path = self.factory_list(tmp_path, json.dumps({"lmp-7": self.entry()}))
        versions = SotaVersions(database)
        versions.save_current(a_target(1))

        versions.import_installed(path)

        assert versions.current("a" * 64).name == "unknown"
        assert path.exists()

    @pytest.mark.parametrize(
        "text",
        ["", "[]", "{", '{"a": 1}', '{"a": {"is_current": true}}',
         '{"a": {"is_current": true, "hashes": {"sha256": "../.."}}}', "[" * 100_000],
    )  # fmt: skip
    def test_what_is_no_list_is_told(
        self, database: SotaDatabase, tmp_path: Path, text: str
    ) -> None:
        path = self.factory_list(tmp_path, text)

        with pytest.raises(StateError, match="installed_versions"):
            SotaVersions(database).import_installed(path)

        assert path.exists()

    def test_a_list_without_a_current_target_changes_nothing(
        self, database: SotaDatabase, tmp_path: Path
    ) -> None:
        path = self.factory_list(tmp_path, json.dumps({"a": self.entry(is_current=False)}))

        SotaVersions(database).import_installed(path)

        assert rows(database.path, "SELECT * FROM installed_versions") == []


def test_others_are_told_of_each_new_current_target(database: SotaDatabase) -> None:
    told: list[Target] = []
    versions = SotaVersions(database, told.append)
    versions.save_pending(a_target(2), needs_reboot=False, correlation_id="2-x")
    versions.save_current(a_target(2))

    assert told == [a_target(2)]


WRITER = """
import sys, itertools
from pathlib import Path
from agent.adapters import journal
from agent.adapters.sotadb import SotaDatabase, SotaTrust, SotaVersions
from agent.core.bundle import TrustedDocuments
from agent.core.target import target_from_custom

journal.set_up(5)
database = SotaDatabase(Path(sys.argv[1]))
database.register("board")
trust, versions = SotaTrust(database), SotaVersions(database)
print("ready", flush=True)
for number in itertools.count():
    mark = str(number).encode()
    documents = [mark + b" " * 50_000 for _ in range(3)]
    trust.remember(TrustedDocuments(((1, mark), (2, mark)), *documents))
    target = target_from_custom(f"n{number}", f"{number:064x}", {"version": str(number)})
    versions.save_pending(target, needs_reboot=True, correlation_id=f"{number}-x")
    versions.save_current(target)
"""


@pytest.mark.parametrize("delay_s", [0.0, 0.017, 0.04, 0.071])
def test_a_writer_killed_anywhere_leaves_the_old_or_the_new(path: Path, delay_s: float) -> None:
    """SIGKILL in the middle of writes; what is there then is whole, and can be written."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    with writer:
        assert writer.stdout
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(delay_s)
        writer.send_signal(signal.SIGKILL)

    database = SotaDatabase(path)
    documents = SotaTrust(database).documents()
    versions = SotaVersions(database)

    marks = [mark for _, mark in documents.roots]
    marks += [d.strip() for d in (documents.timestamp, documents.snapshot, documents.targets) if d]
    assert len(marks) in (0, 5)
    assert len(set(marks)) <= 1
    assert versions.reboot_needed() is (versions.pending() is not None)
    versions.save_current(a_target(1))
    assert versions.current(a_target(1).commit) == a_target(1)


@pytest.mark.parametrize("delay_s", [0.05, 0.1, 0.15, 0.2, 0.25])
def test_a_device_killed_at_its_first_start_can_start_again(path: Path, delay_s: float) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    with writer:
        time.sleep(delay_s)
        writer.send_signal(signal.SIGKILL)

    database = SotaDatabase(path)
    database.register("board")

    assert SotaVersions(database).hardware_id() == "board"
