"""Outcomes as sentences for people and as JSON for programs; the words are the same."""

import json
import re
import sys
from enum import Enum

from agent.core.outcome import ExitCode, NextStep, Outcome
from agent.core.target import Target

PROGRAM = "usb-update"
_OURS = re.compile(rf"'{PROGRAM} (?=(?:check|install|run|current)\b)")


def spoken(text: str, program: str) -> str:
    """Let words name the program that the person typed, where it has the command."""
    return _OURS.sub(f"'{program} ", text)


def outcome_text(outcome: Outcome, program: str = PROGRAM) -> str:
    """Say an outcome in two to four lines.

    The first is the answer, the second the facts, then what to do, then the next step in
    the one word that scripts look for.

    Args:
        outcome: of a command.
        program: as the person typed it.
    """
    head = f"{outcome.target}: " if outcome.target else ""
    lines = [f"{head}{outcome.exit.meaning}"]
    if outcome.message:
        lines.append(f"  {_sentence(outcome.message)}")
    if outcome.hint:
        lines.append(f"  {_sentence(outcome.hint)}")
    if outcome.next_step is not NextStep.NOTHING:
        lines.append(f"next: {outcome.next_step.value}")
        lines.append(f"  {outcome.next_step.sentence}")
    return spoken("\n".join(lines), program)


def warn(message: str, hint: str) -> None:
    """Say what may go wrong, beside the answer."""
    print(f"warning: {message}" + (f"\n  {hint}" if hint else ""), file=sys.stderr)


def outcome_json(outcome: Outcome, command: str, program: str = PROGRAM) -> str:
    """Say an outcome as one JSON object on one line."""
    return json.dumps(
        {
            "command": command,
            "exit": int(outcome.exit),
            "name": outcome.exit.name.lower(),
            "meaning": outcome.exit.meaning,
            "next_step": outcome.next_step.value,
            "target": outcome.target,
            "version": outcome.version,
            "reason": outcome.reason,
            "message": outcome.message,
            "hint": spoken(outcome.hint, program),
        }
    )


def target_text(target: Target) -> str:
    """Say what runs: name, version, commit and Apps, one a line."""
    lines = [
        f"Target:  {target.name}",
        f"Version: {target.version if target.version >= 0 else 'unknown'}",
        f"Commit:  {target.commit}",
        f"Apps:    {len(target.apps) or 'none'}",
    ]
    return "\n".join(lines + [f"  {app.name}  {app.uri}" for app in target.apps])


def target_json(target: Target) -> str:
    """Say what runs as one JSON object on one line."""
    return json.dumps(
        {
            "target": target.name,
            "version": target.version,
            "commit": target.commit,
            "apps": {app.name: app.uri for app in target.apps},
        }
    )


def exit_table(exits: type[ExitCode]) -> str:
    """List a command's exit statuses with their sentences, for ``--help`` and README."""
    return "\n".join(f"  {int(code):>3}  {code.meaning}" for code in _members(exits))


def _members(exits: type[ExitCode]) -> list[ExitCode]:
    members: type[Enum] = exits
    return [member for member in members if isinstance(member, ExitCode)]


def _sentence(text: str) -> str:
    """Begin with a capital and end with a full stop."""
    text = text.strip()
    first = text[:1].upper() if text[:1].isalpha() else text[:1]
    return f"{first}{text[1:]}" + ("" if text.endswith((".", "?")) else ".")
