"""One attempt, door to letterbox: failures become outcomes here and nowhere else.

In: a command and its station. Out: an `Outcome`, whatever happened. Anything that is not
an `AgentError` is a bug and passes through.
"""

from collections.abc import Callable

from agent.core.errors import AgentError
from agent.core.outcome import CheckExit, ExitCode, InstallExit, Outcome, RunExit
from agent.core.policy import Plan, Refusal
from agent.log import get_logger
from agent.ports import Medium
from agent.services.check import check
from agent.services.finish import finish
from agent.services.install import install
from agent.services.station import Station

log = get_logger()


def attempt_check(station: Station, medium: Medium, *, name: str = "") -> Outcome:
    """Say what ``install`` would do: 16 for an update, otherwise ``install``'s own number."""

    def walk() -> Outcome:
        return _check_outcome(check(station, medium, name=name))

    return attempt("check", CheckExit, walk)


def attempt_install(
    station: Station, medium: Medium, *, name: str = "", force: bool = False
) -> Outcome:
    """Check a medium and install what it brings."""

    def walk() -> Outcome:
        decision = check(station, medium, name=name, force=force)
        if isinstance(decision, Refusal):
            return decision.outcome()
        return install(station, medium, decision)

    return attempt("install", InstallExit, walk)


def attempt_run(station: Station) -> Outcome:
    """Finish what was installed. The promise stands until `finish.keep_promise`."""
    return attempt("run", RunExit, lambda: finish(station))


def attempt(command: str, exits: type[ExitCode], walk: Callable[[], Outcome]) -> Outcome:
    """Run one command to its outcome.

    Args:
        command: for the log.
        exits: the command's enum; a failure whose number it lacks answers 1.
        walk: what to do.
    """
    try:
        outcome = walk()
    except AgentError as e:
        outcome = _failure(e, exits)
    _level(outcome)(
        "attempt.finished",
        command=command,
        code=int(outcome.exit),
        target=outcome.target,
        reason=outcome.reason,
        message=outcome.message,
    )
    return outcome


def _level(outcome: Outcome) -> Callable[..., None]:
    """Return who tells of it: a boot with nothing to finish is no news."""
    if outcome.exit is RunExit.NOTHING_PENDING:
        return log.debug
    return log.info if outcome.exit != 1 else log.error


def _failure(error: AgentError, exits: type[ExitCode]) -> Outcome:
    known = {int(member) for member in exits}
    code = exits.of(int(error.exit) if int(error.exit) in known else 1)
    return Outcome(code, reason=error.reason, message=error.message, hint=error.hint)


def _check_outcome(decision: Plan | Refusal) -> Outcome:
    if isinstance(decision, Refusal):
        said = decision.outcome()
        return Outcome(
            CheckExit.of(int(said.exit)),
            said.target,
            said.reason,
            said.message,
            said.hint,
            said.version,
        )
    target = decision.target
    kind = "a reboot" if decision.needs_boot else "no reboot"
    return Outcome(
        CheckExit.UPDATE_FOUND,
        target.name,
        "update_found",
        f"{target.name!r} can be installed; it needs {kind}",
        "",
        target.version,
    )
