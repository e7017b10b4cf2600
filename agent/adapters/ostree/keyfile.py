"""The ``config`` of a repository, read without ``ostree``: bounded, links refused."""

import configparser
from pathlib import Path

from agent.adapters import files

CONFIG_LIMIT_BYTES = 64 * 1024  # a repository's config has a few hundred bytes


class KeyFileError(Exception):
    """A config is not a key file."""


def read_config(repo: Path) -> configparser.RawConfigParser:
    """Read a repository's config.

    Raises:
        KeyFileError: it is not a key file.
        OSError, files.TooLargeError, files.NotRegularError: as `files.read_bounded`.
    """
    data = files.read_bounded(repo / "config", limit=CONFIG_LIMIT_BYTES)
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",))
    try:
        parser.read_string(data.decode("utf-8"), source=f"{repo}/config")
    except (UnicodeDecodeError, configparser.Error) as e:
        raise KeyFileError(str(e)) from e
    return parser
