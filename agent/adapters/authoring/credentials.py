"""Who we are to a registry: Docker's configuration and its credential helpers.

In: a registry's host. Out: what ``docker login`` left for it. Nothing is written, and no
secret is shown: not in a message, not in a log, not in ``repr``.

Host commands used: docker-credential-*.

Source: "docker login", Credential stores; github.com/docker/docker-credential-helpers.
"""

import base64
import binascii
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.adapters import files, shell
from agent.core.authoring import AuthoringError
from agent.log import get_logger

log = get_logger()

CONFIG_LIMIT_BYTES = 1024 * 1024
HELPER_S = 60.0  # a keyring may ask its owner for a password
HUB = "docker.io"
HUB_KEY = "https://index.docker.io/v1/"  # Docker Hub's name in every credential store
TOKEN_USER = "<token>"  # noqa: S105  what a helper calls the owner of an identity token

_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Credential:
    """What opens a registry; one of the three.

    Attributes:
        basic: ``user:password``.
        identity: token that is exchanged for one per repository.
        bearer: token that the registry takes as it is.
    """

    basic: str = field(default="", repr=False)
    identity: str = field(default="", repr=False)
    bearer: str = field(default="", repr=False)


def find_credential(host: str, config: Path | None = None) -> Credential | None:
    """Return what Docker would use for a registry, None when it would come as a stranger.

    Args:
        host: of the registry, with its port when it names one.
        config: Docker's ``config.json``; None for the one Docker would read.

    Raises:
        AuthoringError: the file cannot be used.
    """
    path = config or _config_path()
    settings = _read(path)
    helper = _helper(settings, host, path)
    if helper and (found := _ask(helper, HUB_KEY if host == HUB else host)):
        return found
    entries = _tables(settings.get("auths"))
    return next((_stored(e, path) for key, e in entries.items() if _same(key, host) and e), None)


def _config_path() -> Path:
    home = os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker"
    return Path(home) / "config.json"


def _read(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(files.read_bounded(path, limit=CONFIG_LIMIT_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except files.NotRegularError:
        return _read(path.resolve()) if path.is_symlink() else {}
    except (OSError, files.TooLargeError) as e:
        raise AuthoringError(f"Docker's '{path}' cannot be read") from e
    except (ValueError, RecursionError):
        # Not chained: the parser's exception holds the whole file.
        value = None
    if not isinstance(value, dict):
        raise AuthoringError(
            f"Docker's '{path}' is not a JSON object", hint="'docker login' writes it anew"
        )
    return value


def _helper(settings: Mapping[str, Any], host: str, path: Path) -> str:
    chosen = settings.get("credHelpers")
    table = chosen if isinstance(chosen, dict) else {}
    own = next((name for key, name in table.items() if _same(key, host)), None)
    helper = own if own is not None else settings.get("credsStore") or ""
    if helper and not (isinstance(helper, str) and _HELPER.fullmatch(helper)):
        raise AuthoringError(f"Docker's '{path}' names a credential helper that cannot be one")
    return helper


def _ask(helper: str, key: str) -> Credential | None:
    """Ask a helper; one that has nothing and one that fails say so with the same status."""
    program = f"docker-credential-{helper}"
    try:
        finished = shell.run(
            [program, "get"],
            timeout_s=HELPER_S,
            stdin=key.encode(),
            # A keyring is found by variables of its own, as Docker passes them on.
            env=dict(os.environ),
        )
        table = json.loads(finished.stdout)
        user, secret = str(table["Username"]), str(table["Secret"])
    except shell.CommandError as e:
        log.warning("credentials.not_given", helper=program, registry=key, code=e.code)
        return None
    except (ValueError, KeyError, TypeError):
        log.warning("credentials.not_given", helper=program, registry=key, code=0)
        return None
    return Credential(identity=secret) if user == TOKEN_USER else Credential(f"{user}:{secret}")


def _stored(entry: Mapping[str, Any], path: Path) -> Credential | None:
    """Read one entry of ``auths``."""
    if entry.get("identitytoken"):
        return Credential(identity=str(entry["identitytoken"]))
    if entry.get("registrytoken"):
        return Credential(bearer=str(entry["registrytoken"]))
    if entry.get("auth"):
        return Credential(_decoded(str(entry["auth"]), path))
    if entry.get("username"):
        return Credential(f"{entry['username']}:{entry.get('password', '')}")
    return None  # where a helper is used, an empty entry only says that somebody logged in


def _decoded(text: str, path: Path) -> str:
    try:
        pair = base64.b64decode(text, validate=True).decode().rstrip("\0")
    except (binascii.Error, UnicodeDecodeError):
        pair = ""
    if ":" not in pair:
        raise AuthoringError(
            f"an 'auth' in Docker's '{path}' is not base64 of 'user:password'",
            hint="'docker login' writes it anew",
        )
    return pair


def _same(key: str, host: str) -> bool:
    """Whether an entry's name is this registry's: old ones have a scheme and a path."""
    if host == HUB:
        return key in (HUB_KEY, HUB, "index.docker.io", "registry-1.docker.io")
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0] == host


def _tables(value: object) -> dict[str, Mapping[str, Any]]:
    entries = value.items() if isinstance(value, dict) else ()
    return {str(key): entry for key, entry in entries if isinstance(entry, dict)}
