"""What the configuration means: TOML tables in, checked `Settings` out.

`Settings` below is the one table of keys: each field carries its type, default and
meaning, from which the reader, ``usb-update config`` and docs/configuration.md are made.
Fragments are merged key by key, the later one wins; every value remembers its file.
A key nobody knows is a warning, a value that does not fit is a `ConfigError`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, cast

from agent.core.bundletype import BundleType
from agent.core.errors import ConfigError
from agent.core.windows import EXPECTED as WINDOW_EXPECTED
from agent.core.windows import Window

QUOTE_LIMIT = 80  # characters of a wrong value that a message repeats
FILE_SYSTEMS = ("vfat", "exfat", "ext4")
ROLLBACK_MODES = ("none", "uboot_generic", "uboot_masked", "fiovb", "fioefi", "grub")
PROVISIONED_ROOTS = "/usr/lib/sota/tuf"


# --- kinds of values: what a key accepts -----------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of value.

    Attributes:
        name: what a value must be, as a message and the documents say it.
        read: turns a TOML value into the setting; ValueError when it does not fit.
    """

    name: str
    read: Callable[[object], object]


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError
    return value.strip()


def _file_name(value: object) -> str:
    name = _text(value)
    if not name or name.endswith("/"):
        raise ValueError
    return name


def _path(value: object) -> str:
    path = _text(value)
    if not path.startswith("/"):
        raise ValueError
    return path


def _optional_path(value: object) -> str:
    return "" if value == "" else _path(value)


def _root(value: object) -> str:
    return _optional_path(value) or "/"


def _flag(value: object) -> bool:
    words = {"1": True, "true": True, "0": False, "false": False}
    return words[_scalar(value)]


def _booted(value: object) -> bool:
    words = {"booted": True, "1": True, "true": True, "staged": False, "0": False, "false": False}
    return words[_scalar(value)]


def _scalar(value: object) -> str:
    """Write a text, number or boolean the way the reference's files do."""
    if not isinstance(value, str | int):
        raise ValueError  # noqa: TRY004  every reader says "does not fit" the same way
    return str(value).strip().lower()


def _words(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(word for word in re.split(r"[, ]+", _text(value)) if word)
    words = _texts(value)
    if any(re.search(r"[, ]", word) for word in words):
        raise ValueError
    return words


def _texts(value: object) -> tuple[str, ...]:
    items = [text for text in (value,) if text] if isinstance(value, str) else value
    if not isinstance(items, list):
        raise ValueError  # noqa: TRY004  as above
    texts = tuple(_text(item) for item in items)
    if not all(texts):
        raise ValueError
    return texts


def _windows(value: object) -> tuple[Window, ...]:
    return tuple(Window.parse(text) for text in _texts(value))


def _timezone(value: object) -> str:
    zone = _text(value)
    if not re.fullmatch(r"(?:[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+)*)?", zone, re.ASCII):
        raise ValueError
    return zone


def _file_systems(value: object) -> tuple[str, ...]:
    names = _words(value)
    if not names or not set(names) <= set(FILE_SYSTEMS):
        raise ValueError
    return names


def _firmware_exit(value: object) -> int:
    return {"5": 5, "90": 90}[_scalar(value)]


def _device_type(value: object) -> BundleType | None:
    word = _scalar(value)
    return BundleType(word) if word else None


def _number(low: int, high: int) -> Kind:
    def read(value: object) -> int:
        if isinstance(value, bool) or not re.fullmatch(
            r"[+-]?[0-9]{1,9}", _scalar(value), re.ASCII
        ):
            raise ValueError
        number = int(_scalar(value))
        if not low <= number <= high:
            raise ValueError
        return number

    return Kind(f"a whole number {low}..{high}", read)


def _choice(*words: str) -> Kind:
    def read(value: object) -> str:
        word = _text(value)
        if word not in words:
            raise ValueError
        return word

    return Kind("one of " + ", ".join(f"'{word}'" for word in words), read)


def _package_manager(value: object) -> str:
    word = _text(value)
    if word not in ("", "none", "ostree", "ostree+compose_apps"):
        raise ValueError
    return "" if word == "none" else word


TEXT = Kind("a text", _text)
FILE_NAME = Kind("a file name or absolute path", _file_name)
PATH = Kind("an absolute path", _path)
OPTIONAL_PATH = Kind("an absolute path, or empty", _optional_path)
ROOT = Kind("an absolute path, or empty for '/'", _root)
FLAG = Kind("true or false", _flag)
BOOTED = Kind("'booted' or 'staged'", _booted)
WORDS = Kind("a list of words, or a text with commas or blanks between them", _words)
TEXTS = Kind("a list of texts", _texts)
WINDOWS = Kind(f"a list of windows {WINDOW_EXPECTED}", _windows)
TIMEZONE = Kind("a time zone like 'Europe/Berlin', or empty", _timezone)
FILE_SYSTEM_LIST = Kind(
    "a list of " + ", ".join(f"'{name}'" for name in FILE_SYSTEMS), _file_systems
)
FIRMWARE_EXIT = Kind("5 or 90", _firmware_exit)
DEVICE_TYPE = Kind("one of '', 'ci', 'prod'", _device_type)
PACKAGE_MANAGER = Kind("one of '', 'ostree', 'ostree+compose_apps'", _package_manager)


def _about(kind: Kind, meaning: str, example: str) -> Mapping[str, Any]:
    """Describe one key beside its default."""
    return {"kind": kind, "meaning": meaning, "example": example}


# --- the keys ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Provision:
    """``[provision]``: who this device is, read once, at the first start."""

    primary_ecu_hardware_id: str = field(
        default="",
        metadata=_about(
            TEXT, "Hardware ID that Targets must name; empty: the host name.", "raspberrypi4-64"
        ),
    )
    primary_ecu_serial: str = field(
        default="",
        metadata=_about(
            TEXT, "Serial written into a new `sql.db`; empty: a random UUID.", "0001-4711"
        ),
    )


@dataclass(frozen=True, slots=True)
class Tls:
    """``[tls]``: where the client certificate is; only its subject is read, offline."""

    cert_source: str = field(
        default="file",
        metadata=_about(
            _choice("file", "pkcs11"),
            "Only a certificate in a file tells the device's type.",
            "file",
        ),
    )


@dataclass(frozen=True, slots=True)
class Storage:
    """``[storage]``: where state lives. Relative names are below ``path``."""

    type: str = field(
        default="sqlite", metadata=_about(_choice("sqlite"), "Kind of database.", "sqlite")
    )
    path: str = field(
        default="/var/sota", metadata=_about(PATH, "Directory of all state.", "/var/sota")
    )
    sqldb_path: str = field(
        default="sql.db",
        metadata=_about(FILE_NAME, "The database, shared with aktualizr-lite.", "sql.db"),
    )
    uptane_metadata_path: str = field(
        default="metadata",
        metadata=_about(
            FILE_NAME,
            f"Directory of provisioned roots; `metadata` means `{PROVISIONED_ROOTS}`.",
            "/usr/share/factory/tuf",
        ),
    )
    tls_clientcert_path: str = field(
        default="client.pem",
        metadata=_about(FILE_NAME, "The client certificate of a registered device.", "client.pem"),
    )

    @property
    def database(self) -> str:
        """Absolute path of ``sql.db``."""
        return _below(self.path, self.sqldb_path)

    @property
    def certificate(self) -> str:
        """Absolute path of the client certificate."""
        return _below(self.path, self.tls_clientcert_path)

    @property
    def provisioned_roots(self) -> str:
        """Directory with ``ci/N.root.json`` and ``prod/N.root.json``."""
        if self.uptane_metadata_path == "metadata":
            return PROVISIONED_ROOTS
        return _below(self.path, self.uptane_metadata_path)

    @property
    def ledger(self) -> str:
        """Directory of what only this agent keeps."""
        return _below(self.path, "usb-update")


@dataclass(frozen=True, slots=True)
class Import:
    """``[import]``: what a factory image hands over at the first start."""

    base_path: str = field(
        default="/var/sota/import",
        metadata=_about(PATH, "Directory with `installed_versions`.", "/var/sota/import"),
    )
    tls_clientcert_path: str = field(
        default="",
        metadata=_about(
            TEXT, "Client certificate handed over, below `base_path`; empty: none.", "client.pem"
        ),
    )

    @property
    def certificate(self) -> str:
        """Absolute path of the certificate handed over, empty when there is none."""
        name = self.tls_clientcert_path
        return _below(self.base_path, name) if name else ""


@dataclass(frozen=True, slots=True)
class Bootloader:
    """``[bootloader]``: how a boot is confirmed and a reboot made."""

    rollback_mode: str = field(
        default="none",
        metadata=_about(
            _choice(*ROLLBACK_MODES), "Which boot loader environment is kept.", "uboot_masked"
        ),
    )
    reboot_sentinel_dir: str = field(
        default="/var/run/aktualizr-session",
        metadata=_about(
            PATH,
            "Directory, on a tmpfs, of the mark that vanishes with a reboot.",
            "/run/aktualizr-session",
        ),
    )
    reboot_sentinel_name: str = field(
        default="need_reboot", metadata=_about(FILE_NAME, "Name of that mark.", "need_reboot")
    )
    reboot_command: str = field(
        default="/sbin/reboot",
        metadata=_about(TEXT, "Program, with its arguments, that reboots.", "/sbin/reboot"),
    )
    grubenv_path: str = field(
        default="/boot/grub/grubenv",
        metadata=_about(
            PATH,
            'GRUB\'s environment block; only with `rollback_mode = "grub"`.',
            "/boot/efi/EFI/debian/grubenv",
        ),
    )


@dataclass(frozen=True, slots=True)
class Pacman:
    """``[pacman]``: OSTree, Apps and which Targets are this device's."""

    type: str = field(
        default="",
        metadata=_about(
            PACKAGE_MANAGER,
            "What Targets bring: the rootfs, or Apps too; empty: by whether Docker is there.",
            "ostree+compose_apps",
        ),
    )
    sysroot: str = field(default="/", metadata=_about(ROOT, "The OSTree sysroot.", "/sysroot"))
    os: str = field(
        default="",
        metadata=_about(
            TEXT, "OSTree's name of the operating system; empty: the booted one.", "lmp"
        ),
    )
    booted: bool = field(
        default=True,
        metadata=_about(
            BOOTED,
            "Whether the system runs from that sysroot; `staged`: it only lies there.",
            "staged",
        ),
    )
    tags: tuple[str, ...] | None = field(
        default=None,
        metadata=_about(
            WORDS, "Tags a Target may carry, one of them suffices; unset: any.", "main,devel"
        ),
    )
    callback_program: str = field(
        default="",
        metadata=_about(
            OPTIONAL_PATH, "Program told about each step; empty: none.", "/usr/bin/on-update"
        ),
    )
    compose_apps: tuple[str, ...] | None = field(
        default=None,
        metadata=_about(WORDS, "Apps this device runs; unset: all of the Target.", "web,db"),
    )
    reset_apps: tuple[str, ...] | None = field(
        default=None,
        metadata=_about(
            WORDS, "Apps kept in the store beside those, `*` for all; unset: none.", "factory"
        ),
    )
    compose_apps_root: str = field(
        default="/var/sota/compose-apps",
        metadata=_about(PATH, "Where Apps are unpacked.", "/var/sota/compose-apps"),
    )
    reset_apps_root: str = field(
        default="/var/sota/reset-apps",
        metadata=_about(PATH, "The store of Apps.", "/var/sota/reset-apps"),
    )
    images_data_root: str = field(
        default="/var/lib/docker",
        metadata=_about(PATH, "Docker's data, for the space check.", "/var/lib/docker"),
    )
    docker_compose_bin: str = field(
        default="/usr/bin/docker",
        metadata=_about(
            PATH,
            "`docker` (then `docker compose`) or a compose program.",
            "/usr/bin/docker-compose",
        ),
    )
    docker_prune: bool = field(
        default=True,
        metadata=_about(FLAG, "Whether unused images are removed after success.", "false"),
    )
    force_update: bool = field(
        default=False,
        metadata=_about(FLAG, "Whether all Apps are copied again although they are whole.", "true"),
    )
    storage_watermark: int = field(
        default=80,
        metadata=_about(_number(20, 95), "Percent of a volume that Apps may fill.", "90"),
    )
    ostree_update_block: bool = field(
        default=True,
        metadata=_about(
            FLAG, "Whether unconfirmed boot firmware blocks the next rootfs (90).", "false"
        ),
    )
    sysroot_ostree_reserved_space_percentage: int | None = field(
        default=None,
        metadata=_about(
            _number(3, 50), "Percent of the sysroot OSTree keeps free; unset: OSTree's own.", "5"
        ),
    )


@dataclass(frozen=True, slots=True)
class Logger:
    """``[logger]``: how much is said."""

    loglevel: int = field(
        default=2,
        metadata=_about(
            _number(0, 5), "0 trace, 1 debug, 2 info, 3 warning, 4 error, 5 fatal.", "1"
        ),
    )


@dataclass(frozen=True, slots=True)
class UsbUpdate:
    """``[usb_update]``: what only this agent knows."""

    require_bundle_metadata: bool = field(
        default=True,
        metadata=_about(FLAG, "Refuse bundles without signed `bundle-targets.json`.", "false"),
    )
    app_start_timeout_s: int = field(
        default=0,
        metadata=_about(
            _number(0, 3600),
            "Seconds to wait for containers' health checks; 0: do not wait.",
            "120",
        ),
    )
    device_type: BundleType | None = field(
        default=None,
        metadata=_about(
            DEVICE_TYPE,
            "Type of this device; empty: as its certificate or else its first bundle says.",
            "prod",
        ),
    )
    run_boot_firmware_exit: int = field(
        default=5,
        metadata=_about(
            FIRMWARE_EXIT, "Exit status of `run` when boot firmware waits for a reboot.", "90"
        ),
    )
    auto: bool = field(
        default=True,
        metadata=_about(FLAG, "Whether a stick installs by itself; else it is only read.", "false"),
    )
    mount: str = field(
        default="self",
        metadata=_about(
            _choice("self", "wait"), "Mount sticks ourselves, or wait for an automounter.", "wait"
        ),
    )
    filesystems: tuple[str, ...] = field(
        default=("vfat", "exfat"),
        metadata=_about(FILE_SYSTEM_LIST, "File systems that are mounted.", "vfat, exfat, ext4"),
    )
    mount_wait_s: int = field(
        default=10,
        metadata=_about(_number(0, 600), "Seconds to wait for an automounter's mount.", "20"),
    )
    consent: str = field(
        default="auto",
        metadata=_about(
            _choice("auto", "countdown", "confirm"),
            "What must happen before an install.",
            "confirm",
        ),
    )
    countdown_s: int = field(
        default=30,
        metadata=_about(_number(1, 3600), "Seconds in which pulling the stick cancels.", "60"),
    )
    confirm_by_bundle: bool = field(
        default=False,
        metadata=_about(
            FLAG, "Whether a signed bundle may itself stand for the confirmation.", "true"
        ),
    )
    confirm_key: str = field(
        default="",
        metadata=_about(
            TEXT, "Input device or name of the key that confirms; empty: none.", "/dev/input/event0"
        ),
    )
    reboot: str = field(
        default="now",
        metadata=_about(
            _choice("now", "window", "never"), "When the device reboots by itself.", "never"
        ),
    )
    windows: tuple[Window, ...] = field(
        default=(),
        metadata=_about(
            WINDOWS, 'When it may reboot, with `reboot = "window"`.', "Mon-Fri 22:00-05:00"
        ),
    )
    timezone: str = field(
        default="",
        metadata=_about(TIMEZONE, "Time zone of the windows; empty: local.", "Europe/Berlin"),
    )
    leds: tuple[str, ...] = field(
        default=(), metadata=_about(TEXTS, "LEDs below `/sys/class/leds` that signal.", "status")
    )
    bell: bool = field(default=False, metadata=_about(FLAG, "Whether the speaker signals.", "true"))
    console: str = field(
        default="", metadata=_about(OPTIONAL_PATH, "Terminal that shows each stage.", "/dev/tty1")
    )
    results: bool = field(
        default=True, metadata=_about(FLAG, "Whether results are written on the stick.", "false")
    )
    lock: str = field(
        default="/var/lock/aklite.lock",
        metadata=_about(
            PATH,
            "The lock an agent holds while it works; aktualizr-lite takes this very file.",
            "/run/lock/aklite.lock",
        ),
    )
    stop_services: tuple[str, ...] = field(
        default=("aktualizr-lite.service",),
        metadata=_about(
            WORDS, "Units stopped for an attempt, started again after it.", "aktualizr-lite.service"
        ),
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, checked. ``import`` is a word of the language, hence ``import_``."""

    provision: Provision = field(default_factory=Provision, metadata={"section": "provision"})
    tls: Tls = field(default_factory=Tls, metadata={"section": "tls"})
    storage: Storage = field(default_factory=Storage, metadata={"section": "storage"})
    import_: Import = field(default_factory=Import, metadata={"section": "import"})
    bootloader: Bootloader = field(default_factory=Bootloader, metadata={"section": "bootloader"})
    pacman: Pacman = field(default_factory=Pacman, metadata={"section": "pacman"})
    logger: Logger = field(default_factory=Logger, metadata={"section": "logger"})
    usb_update: UsbUpdate = field(default_factory=UsbUpdate, metadata={"section": "usb_update"})

    @property
    def certificates(self) -> tuple[str, ...]:
        """Absolute paths where the client certificate may lie; none when a token holds it."""
        if self.tls.cert_source != "file":
            return ()
        return tuple(filter(None, (self.storage.certificate, self.import_.certificate)))


# Keys of aktualizr-lite that have no meaning offline: no warning on a device that runs both.
ELSEWHERE: Mapping[str, frozenset[str] | None] = {
    "p11": None,
    "uptane": None,
    "telemetry": None,
    "tls": frozenset(("server", "server_url_path", "ca_source", "pkey_source")),
    "provision": frozenset(("mode", "server", "provision_path", "device_id", "expiry_days")),
    "storage": frozenset(("tls_cacert_path", "tls_pkey_path")),
    "import": frozenset(("tls_cacert_path", "tls_pkey_path")),
    "pacman": frozenset(
        (
            "ostree_server",
            "packages_file",
            "images_path",
            "skopeo_bin",
            "composectl_bin",
            "compose_apps_tree",
            "create_apps_tree",
            "docker_images_reload_cmd",
            "create_containers_before_reboot",
            "stop_apps_before_update",
            "compose_apps_proxy",
            "compose_apps_proxy_ca",
            "hub_auth_creds_endpoint",
            "enforce_composeapp_engine",
            "x-fio-test-no-init-target",
        )
    ),
}


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the table, for readers of the table.

    Attributes:
        section, name: as a file writes them.
        attribute: the section's name in `Settings`.
        kind, default, meaning, example: as declared.
    """

    section: str
    name: str
    attribute: str
    kind: Kind
    default: object
    meaning: str
    example: str


def _keys() -> Mapping[tuple[str, str], Key]:
    return {
        (part.metadata["section"], item.name): Key(
            part.metadata["section"], item.name, part.name, default=item.default, **item.metadata
        )
        for part in fields(Settings)
        for item in fields(cast("type[Any]", part.default_factory))
    }


KEYS: Mapping[tuple[str, str], Key] = _keys()
SECTIONS = frozenset(section for section, _ in KEYS)


# --- fragments, merged ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fragment:
    """One file's tables, as TOML values.

    Attributes:
        file: where they come from, for messages.
        tables: the whole document; sections are its tables.
    """

    file: str
    tables: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Value:
    """A TOML value and the file that set it."""

    value: object
    file: str


Merged = Mapping[tuple[str, str], Value]
"""(section, key) to value; a section that is no table stands under the key ``""``."""


def flatten(fragment: Fragment) -> Merged:
    """Spread a fragment's tables out."""
    flat: dict[tuple[str, str], Value] = {}
    for section, table in fragment.tables.items():
        items = table.items() if isinstance(table, Mapping) else [("", table)]
        flat.update(((section, str(key)), Value(value, fragment.file)) for key, value in items)
    return flat


def merge(earlier: Merged, later: Merged) -> Merged:
    """Lay ``later`` over ``earlier``, key by key. Associative."""
    return {**earlier, **later}


@dataclass(frozen=True, slots=True)
class Entry:
    """One effective setting, for ``usb-update config``.

    Attributes:
        source: the file that set it; empty for a default.
    """

    section: str
    key: str
    value: object
    source: str

    @property
    def text(self) -> str:
        """The value as TOML would write it, ``unset`` when it is None."""
        return shown(self.value)


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings and where each came from.

    Attributes:
        entries: every key of the table, in its order.
        warnings: a sentence for every key nobody knows.
    """

    settings: Settings
    entries: tuple[Entry, ...]
    warnings: tuple[str, ...]


def read_settings(fragments: Iterable[Fragment]) -> Configuration:
    """Merge fragments in order and check what results.

    Raises:
        ConfigError: a value does not fit its key.
    """
    merged: Merged = {}
    for fragment in fragments:
        merged = merge(merged, flatten(fragment))
    return settings_from(merged)


def settings_from(merged: Merged) -> Configuration:
    """Check merged values.

    Raises:
        ConfigError: a value does not fit its key.
    """
    _check_sections(merged)
    entries = tuple(_entry(key, merged.get(place)) for place, key in KEYS.items())
    settings = _assemble(entries)
    _check_together(settings, merged)
    return Configuration(settings, entries, _warnings(merged))


def _check_sections(merged: Merged) -> None:
    for (section, key), found in merged.items():
        if key == "" and section in SECTIONS:
            raise ConfigError(
                f"'{found.file}': '{section}' must be a table, found {_quoted(found.value)}",
                hint=f"write [{section}] on a line of its own and its keys below it",
            )


def _entry(key: Key, found: Value | None) -> Entry:
    if found is None:
        return Entry(key.section, key.name, key.default, "")
    try:
        return Entry(key.section, key.name, key.kind.read(found.value), found.file)
    except (ValueError, KeyError) as e:
        raise ConfigError(
            f"'{found.file}': [{key.section}] {key.name} must be {key.kind.name}, "
            f"found {_quoted(found.value)}",
            hint=f'for example: {key.name} = "{key.example}"',
        ) from e


def _assemble(entries: Iterable[Entry]) -> Settings:
    values: dict[str, dict[str, object]] = {}
    for entry in entries:
        values.setdefault(entry.section, {})[entry.key] = entry.value
    parts = {
        part.name: cast("type[Any]", part.default_factory)(**values[part.metadata["section"]])
        for part in fields(Settings)
    }
    return Settings(**parts)


def _check_together(settings: Settings, merged: Merged) -> None:
    own = settings.usb_update
    if own.reboot == "window" and not own.windows:
        file = merged["usb_update", "reboot"].file
        raise ConfigError(
            f"'{file}': [usb_update] reboot is 'window', but windows is empty",
            hint='name a window: windows = ["Sat,Sun 01:00-04:00"]',
        )


def _warnings(merged: Merged) -> tuple[str, ...]:
    return tuple(
        f"'{found.file}': {_quoted(f'{section}.{key}'.strip('.'))} is not a known key"
        for (section, key), found in merged.items()
        if (section, key) not in KEYS and not _known_elsewhere(section, key)
    )


def _known_elsewhere(section: str, key: str) -> bool:
    keys = ELSEWHERE.get(section, frozenset())
    return keys is None or key in keys


def shown(value: object) -> str:
    """Write a setting as TOML would; ``unset`` for None."""
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(shown(item) for item in value) + "]"
    return '"' + re.sub(r'(["\\])', r"\\\1", str(value)) + '"'


def _quoted(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # TOML writes 0x... of any length; Python prints 4300 digits
        text = "a huge number"
    return text if len(text) <= QUOTE_LIMIT else text[:QUOTE_LIMIT] + "..."


def _below(base: str, path: str) -> str:
    return path if path.startswith("/") else f"{base.rstrip('/')}/{path}"
