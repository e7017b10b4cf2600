"""The configuration: one table of keys, read, checked and documented."""

from pathlib import Path

import pytest

from agent.core.bundletype import BundleType
from agent.core.config import (
    KEYS,
    Configuration,
    Fragment,
    Key,
    Settings,
    read_settings,
    shown,
)
from agent.core.errors import ConfigError

DOCUMENT = Path(__file__).parents[3] / "docs" / "configuration.md"


def read(*tables: dict[str, object]) -> Configuration:
    return read_settings(Fragment(f"{n}.toml", table) for n, table in enumerate(tables))


def setting(section: str, key: str, value: object) -> object:
    settings = read({section: {key: value}}).settings
    return getattr(getattr(settings, KEYS[section, key].attribute), key)


def test_without_files_every_default_holds() -> None:
    assert read().settings == Settings()


@pytest.mark.parametrize("key", KEYS.values(), ids=lambda key: f"{key.section}.{key.name}")
def test_every_key_takes_its_example(key: Key) -> None:
    assert setting(key.section, key.name, key.example) is not None


@pytest.mark.parametrize("key", KEYS.values(), ids=lambda key: f"{key.section}.{key.name}")
def test_every_key_takes_its_own_default(key: Key) -> None:
    if key.default not in (None, True, False):
        written = (
            [str(item) for item in key.default] if isinstance(key.default, tuple) else key.default
        )

        assert key.default == setting(key.section, key.name, written)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("main,devel", ("main", "devel")),
        (" main ,, devel test", ("main", "devel", "test")),
        (["main", "devel"], ("main", "devel")),
        ("", ()),
        ([], ()),
    ],
)
def test_lists_are_texts_or_arrays(value: object, expected: tuple[str, ...]) -> None:
    assert expected == setting("pacman", "tags", value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, True),
        ("1", True),
        (1, True),
        ("true", True),
        (False, False),
        ("0", False),
        (0, False),
    ],
)
def test_flags_are_words_numbers_or_booleans(value: object, expected: bool) -> None:  # noqa: FBT001
    assert expected is setting("pacman", "docker_prune", value)


@pytest.mark.parametrize("value", ["staged", "0", 0, False])
def test_a_sysroot_may_only_lie_there(value: object) -> None:
    assert setting("pacman", "booted", value) is False


def test_numbers_may_be_texts() -> None:
    assert setting("pacman", "storage_watermark", "95") == 95
    assert setting("pacman", "storage_watermark", 20) == 20


def test_an_unset_list_is_not_an_empty_one() -> None:
    assert Settings().pacman.compose_apps is None
    assert setting("pacman", "compose_apps", "") == ()


def test_the_reference_spelling_of_no_package_manager_means_automatic() -> None:
    assert setting("pacman", "type", "none") == ""


def test_the_device_type_is_one_of_two() -> None:
    assert setting("usb_update", "device_type", "prod") is BundleType.PROD
    assert setting("usb_update", "device_type", "") is None


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("pacman", "storage_watermark", 19),
        ("pacman", "storage_watermark", 96),
        ("pacman", "storage_watermark", True),
        ("pacman", "storage_watermark", 80.5),
        ("pacman", "storage_watermark", "eighty"),
        pytest.param("pacman", "storage_watermark", 10**5000, id="huge"),
        ("pacman", "docker_prune", "yes"),
        ("pacman", "docker_prune", 2),
        ("pacman", "tags", 7),
        ("pacman", "tags", [["main"]]),
        ("pacman", "tags", ["two words"]),
        ("pacman", "tags", {"main": 1}),
        ("pacman", "sysroot", "relative"),
        ("pacman", "type", "debian"),
        ("pacman", "callback_program", "a\x00b"),
        ("storage", "sqldb_path", ""),
        ("storage", "type", "postgres"),
        ("bootloader", "rollback_mode", "uboot_maksed"),
        ("logger", "loglevel", 6),
        ("provision", "primary_ecu_hardware_id", "a\nb"),
        ("usb_update", "app_start_timeout_s", 3601),
        ("usb_update", "app_start_timeout_s", -1),
        ("usb_update", "run_boot_firmware_exit", 6),
        ("usb_update", "filesystems", "ntfs"),
        ("usb_update", "filesystems", []),
        ("usb_update", "windows", ["whenever"]),
        ("usb_update", "windows", [22]),
        ("usb_update", "timezone", "../../etc/passwd"),
        ("usb_update", "timezone", "/etc/localtime"),
        ("usb_update", "device_type", "devel"),
        ("usb_update", "consent", "maybe"),
        ("usb_update", "reboot", True),
    ],
)
def test_a_wrong_value_names_its_file_and_key(section: str, key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        read({}, {section: {key: value}})

    assert "'1.toml'" in caught.value.message
    assert f"[{section}] {key} must be" in caught.value.message
    assert "found" in caught.value.message
    assert len(caught.value.message) < 400
    assert key in caught.value.hint


def test_a_section_that_is_no_table_is_told() -> None:
    with pytest.raises(ConfigError, match="'pacman' must be a table, found 3"):
        read({"pacman": 3})


def test_a_window_without_windows_makes_no_sense() -> None:
    with pytest.raises(ConfigError, match="windows is empty"):
        read({"usb_update": {"reboot": "window"}})


def test_the_later_file_wins_key_by_key() -> None:
    both = read(
        {"pacman": {"tags": "main", "os": "lmp"}},
        {"pacman": {"tags": "devel"}},
    )
    sources = {(entry.section, entry.key): entry.source for entry in both.entries}

    assert both.settings.pacman.tags == ("devel",)
    assert both.settings.pacman.os == "lmp"
    assert sources["pacman", "tags"] == "1.toml"
    assert sources["pacman", "os"] == "0.toml"
    assert sources["pacman", "sysroot"] == ""


def test_an_unknown_key_is_a_warning() -> None:
    found = read({"pacman": {"tgas": "main"}, "typo": {"a": 1}, "loose": 1})

    assert found.settings == Settings()
    assert [
        word in text
        for word, text in zip(("pacman.tgas", "typo.a", "loose"), found.warnings, strict=True)
    ] == [True] * 3
    assert all("'0.toml'" in text for text in found.warnings)


def test_keys_of_aktualizr_lite_without_meaning_here_are_no_warnings() -> None:
    assert read({
        "tls": {"server": "https://ota-lite.example.org:8443", "ca_source": "file"},
        "uptane": {"key_source": "file", "polling_sec": 300},
        "p11": {"module": ""},
        "pacman": {"ostree_server": "https://x", "packages_file": "/usr/package.manifest"},
    }).warnings == ()  # fmt: skip


def test_paths_below_the_storage() -> None:
    storage = read(
        {"storage": {"path": "/data/", "tls_clientcert_path": "/etc/c.pem"}}
    ).settings.storage

    assert storage.database == "/data/sql.db"
    assert storage.ledger == "/data/usb-update"
    assert storage.certificate == "/etc/c.pem"
    assert storage.provisioned_roots == "/usr/lib/sota/tuf"


def test_provisioned_roots_may_lie_elsewhere() -> None:
    assert (
        read({"storage": {"uptane_metadata_path": "/opt/tuf"}}).settings.storage.provisioned_roots
        == "/opt/tuf"
    )


def test_a_certificate_handed_over_by_the_factory() -> None:
    assert read().settings.import_.certificate == ""
    assert (
        read({"import": {"tls_clientcert_path": "c.pem"}}).settings.import_.certificate
        == "/var/sota/import/c.pem"
    )


def test_a_certificate_in_a_token_is_in_no_file() -> None:
    assert read().settings.certificates == ("/var/sota/client.pem",)
    assert read({"tls": {"cert_source": "pkcs11"}}).settings.certificates == ()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "unset"),
        (True, "true"),
        (3, "3"),
        ('a"\\b', '"a\\"\\\\b"'),
        (("a", "b"), '["a", "b"]'),
        ((), "[]"),
        (BundleType.CI, '"ci"'),
    ],
)
def test_a_setting_is_shown_as_toml(value: object, text: str) -> None:
    assert text == shown(value)


def row(key: Key) -> str:
    """The line of docs/configuration.md about a key."""
    default = shown(key.default)
    kind = key.kind.name.replace("|", "\\|")
    return f"| `{key.name}` | {kind} | `{default}` | {key.meaning} | `{key.example}` |"


@pytest.mark.parametrize("key", KEYS.values(), ids=lambda key: f"{key.section}.{key.name}")
def test_the_document_tells_every_key(key: Key) -> None:
    section = DOCUMENT.read_text().partition(f"## `[{key.section}]`")[2].partition("\n## ")[0]

    assert row(key) in section.splitlines()


def test_the_document_tells_no_key_that_is_not_there() -> None:
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")]

    assert sorted(lines) == sorted(row(key) for key in KEYS.values())


@pytest.mark.parametrize("key", KEYS.values(), ids=lambda key: f"{key.section}.{key.name}")
def test_every_meaning_is_one_sentence(key: Key) -> None:
    assert key.meaning.endswith(".")
    assert "\n" not in key.meaning
