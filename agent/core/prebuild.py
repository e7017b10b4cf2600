"""Which compose files an App is made of, as a factory's CI is told.

CI sources ``pre-build.conf``, a shell script at the top of ``containers.git``, before it
builds and before it publishes. Nobody runs it here; it is read for one thing, a plain
assignment of ``COMPOSE_FILES``: those of the named files that an App has are merged into its
``docker-compose.yml``.

Source: ci-scripts, apps/publish.sh and apps/compose_apps.py.
"""

import re
import shlex
from collections.abc import Sequence

from agent.core.appfiles import COMPOSE_NAME
from agent.core.authoring import AuthoringError
from agent.core.factoryconfig import COMPOSE_FILES

PRE_BUILD = "pre-build.conf"
DEFAULT = (COMPOSE_NAME,)

_COMMENT = re.compile(r"(?m)(?:^|[ \t;])#.*$")
_MENTION = re.compile(rf"\b{COMPOSE_FILES}\b", re.ASCII)
_ASSIGNMENT = re.compile(rf"(?m)^[ \t]*(?:export[ \t]+)?{COMPOSE_FILES}=(.*)$", re.ASCII)
_SHELL = frozenset("$`\\(;&|<>")


def assigned_compose_files(script: bytes) -> tuple[str, ...] | None:
    """Return what ``pre-build.conf`` says in ``COMPOSE_FILES``; None when it does not.

    Raises:
        AuthoringError: only a shell could tell.
    """
    text = _COMMENT.sub("", script.decode("utf-8", "replace"))
    mentions, assignments = _MENTION.findall(text), _ASSIGNMENT.findall(text)
    if not mentions:
        return None
    if len(mentions) != len(assignments) or _SHELL & set("".join(assignments)):
        raise _unreadable()
    try:
        words = shlex.split(assignments[-1])
    except ValueError as e:
        raise _unreadable() from e
    if len(words) > 1:  # a command with its own environment
        raise _unreadable()
    return tuple(words[0].split()) if words else ()


def _unreadable() -> AuthoringError:
    return AuthoringError(
        f"'{PRE_BUILD}' sets {COMPOSE_FILES} in a way that only a shell can read",
        hint=f'write it as {COMPOSE_FILES}="a.yml b.yml", or merge the files and take it out',
    )


def demand_one_file(where: str, made_of: Sequence[str]) -> None:
    """Refuse an App that CI makes of other compose files than the one that devices know.

    Args:
        where: what to call the App.
        made_of: those of ``COMPOSE_FILES`` that it has.

    Raises:
        AuthoringError: it is made of several, or of another one.
    """
    if tuple(made_of) in ((), DEFAULT):
        return
    files = " ".join(f"-f {shlex.quote(name)}" for name in made_of)
    raise AuthoringError(
        f"{where} is made of {' and '.join(map(repr, made_of))}, says {COMPOSE_FILES}; "
        f"a bundle carries '{COMPOSE_NAME}' alone",
        hint="merge them in a checkout, in the App's directory: "
        f"'docker compose {files} config --no-interpolate --no-path-resolution > merged.yml', "
        f"then let that be '{COMPOSE_NAME}', remove the others, commit, and name that commit",
    )
