"""Where ``*.toml`` files live and in which order they count.

In: the paths of ``--config``, or none for the default places. Out: fragments for
`config.read_settings`, the one that wins last. A file masks an earlier one of the same
name wherever it lies; what is left counts in the byte order of the names, so that
``sota.toml`` comes after ``40-hardware-id.toml`` whatever their directories.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tomli

from agent.core.config import Configuration, Fragment, read_settings
from agent.core.errors import ConfigError

DEFAULT_PLACES = (
    Path("/usr/lib/sota/conf.d"),
    Path("/var/sota/sota.toml"),
    Path("/etc/sota/conf.d"),
)
LIMIT_BYTES = 1 << 20  # the longest factory file known has 3 kB


def load(places: Sequence[Path] = (), root: Path = Path("/")) -> Configuration:
    """Read and check the configuration.

    Args:
        places: files and directories, each of which must exist; none: the default places.
        root: of the system the default places are those of.

    Raises:
        ConfigError: a place is missing, a file cannot be read, or a value does not fit.
    """
    return read_settings(fragments(places, root))


def fragments(places: Sequence[Path] = (), root: Path = Path("/")) -> tuple[Fragment, ...]:
    """Read the files, in the order in which they count.

    Raises:
        ConfigError: a place is missing, or a file cannot be read as TOML.
    """
    defaults = (root / place.relative_to("/") for place in DEFAULT_PLACES)
    found = _given(places) if places else [place for place in defaults if place.exists()]
    return tuple(Fragment(str(file), _tables(file)) for file in in_order(_files(found)))


def in_order(files: Iterable[Path]) -> list[Path]:
    """Return the last file of each name, in byte order of the names."""
    by_name = {bytes(file.name, "utf-8", "surrogateescape"): file for file in files}
    return [by_name[name] for name in sorted(by_name)]


def _given(places: Sequence[Path]) -> Sequence[Path]:
    for place in places:
        if not place.exists():
            raise ConfigError(f"'{place}' does not exist", hint="correct --config")
    return places


def _files(places: Iterable[Path]) -> Iterable[Path]:
    for place in places:
        yield from _toml_files(place) if place.is_dir() else [place]


def _toml_files(directory: Path) -> list[Path]:
    try:
        return sorted(file for file in directory.iterdir() if file.suffix == ".toml")
    except OSError as e:
        raise ConfigError(f"'{directory}' cannot be listed: {e.strerror}") from e


def _tables(file: Path) -> dict[str, Any]:
    try:
        return tomli.loads(_read(file).decode("utf-8"))
    except UnicodeDecodeError as e:
        raise ConfigError(f"'{file}' is not UTF-8 at byte {e.start}") from e
    except (ValueError, RecursionError) as e:  # a plain ValueError: a number of 4300 digits
        raise ConfigError(
            f"'{file}' is not TOML: {e}",
            hint="texts stand in double quotes, comments begin with #, a table comes once",
        ) from e


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            data = stream.read(LIMIT_BYTES + 1)
    except OSError as e:
        raise ConfigError(f"'{file}' cannot be read: {e.strerror}") from e
    if len(data) > LIMIT_BYTES:
        raise ConfigError(f"'{file}' is longer than {LIMIT_BYTES} bytes")
    return data
