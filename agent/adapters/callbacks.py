"""The owner's program, told about each step, and the file it reads the current Target from.

Host commands used: whatever ``[pacman] callback_program`` names. It is run without a
shell, with its facts in the environment; its failure is logged and changes nothing.

Source: reference-behaviour §10.4, §11.1.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from agent.adapters import files, shell
from agent.core.target import Target
from agent.log import get_logger

log = get_logger()

DEADLINE_S = 900.0  # a program may drain a line or wait for an operator; not for ever
MANIFEST_KEYS = {
    "LMP_MANIFEST_SHA": "lmp-manifest-sha",
    "META_SUBSCRIBER_OVERRIDES_SHA": "meta-subscriber-overrides-sha",
    "CONTAINERS_SHA": "containers-sha",
}


class ProgramCallbacks:
    """ports.Callbacks.

    Args:
        program: absolute path; None tells nobody.
        current_target: the file `CurrentTargetFile` writes, named in the environment.
        timeout_s: deadline of the program.
    """

    def __init__(
        self, program: Path | None, current_target: Path, *, timeout_s: float = DEADLINE_S
    ) -> None:
        self._program = _usable(program)
        self._current_target = current_target
        self._timeout_s = timeout_s

    def notify(self, message: str, *, current: str, target: str = "", result: str = "") -> None:
        """Run the program; ``result`` is told only after a step, not before it."""
        if self._program is None:
            return
        env = {
            "MESSAGE": message,
            "CURRENT_TARGET": str(self._current_target),
            "CURRENT_TARGET_NAME": current,
        }
        if target:
            env["INSTALL_TARGET_NAME"] = target
        if message.endswith("-post"):
            env["RESULT"] = result
        self._run({name: value.replace("\0", "") for name, value in env.items()})

    def _run(self, env: dict[str, str]) -> None:
        try:
            shell.run([str(self._program)], timeout_s=self._timeout_s, env=env)
        except shell.CommandError as e:
            log.warning("callback.failed", message=env["MESSAGE"], cause=str(e))


class CurrentTargetFile:
    """``<storage>/current-target``: shell-style lines about the Target that runs."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, target: Target) -> None:
        """Replace the file. It is for other programs: its failure is logged, not raised."""
        lines = (f'{name}="{_tame(value)}"\n' for name, value in _facts(target).items())
        try:
            files.write_atomic(self._path, "".join(lines).encode(), mode=0o644)
        except OSError as e:
            log.warning("current_target.failed", path=str(self._path), message=str(e))


def _facts(target: Target) -> dict[str, str]:
    custom: dict[str, Any] = json.loads(target.custom_json)
    facts = {"TARGET_NAME": target.name, "CUSTOM_VERSION": str(custom.get("version", ""))}
    facts.update(
        (name, custom[key])
        for name, key in MANIFEST_KEYS.items()
        if isinstance(custom.get(key), str) and custom[key]
    )
    return {**facts, "TAG": ",".join(target.tags)}


def _tame(value: str) -> str:
    """Leave nothing in a value that a shell reading the file would act upon."""
    return re.sub(r'[\x00-\x1f\x7f"$`\\]', "_", value)


def _usable(program: Path | None) -> Path | None:
    if program is None or (program.is_file() and os.access(program, os.X_OK)):
        return program
    log.error("callback.missing", path=str(program))
    return None
