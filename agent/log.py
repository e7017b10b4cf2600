"""The log, as every module sees it: structlog, which comes with the first event that is heard.

``log = get_logger()`` as with structlog itself. Importing structlog takes as long as all else
that an idle ``run`` does, and that one has nothing to say. `adapters.journal` decides how
events look and which are heard.
"""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}  # logging's


@dataclass(slots=True)
class _Setup:
    """What structlog is to be told once it is there; None when it knows."""

    heard_from: int = 0
    configure: Callable[[], None] | None = None


_setup = _Setup()


class Log:
    """Tells events: what happened, and with what."""

    def debug(self, event: str, /, **fields: object) -> None:
        """Tell what helps to find an error."""
        _tell("debug", event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """Tell what happened."""
        _tell("info", event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Tell what somebody should look at."""
        _tell("warning", event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """Tell what went wrong."""
        _tell("error", event, fields)


def get_logger() -> Log:
    """Return the log."""
    return Log()


def bound(**fields: object) -> AbstractContextManager[None]:
    """Add fields to every event of a block."""
    from structlog.contextvars import bound_contextvars  # noqa: PLC0415  see above

    return bound_contextvars(**fields)


def set_up(heard_from: int, configure: Callable[[], None]) -> None:
    """Say how the log is configured: now, or when the first event comes.

    Args:
        heard_from: the least of `LEVELS` that is heard.
        configure: tells structlog all of it.
    """
    _setup.heard_from, _setup.configure = heard_from, configure
    if "structlog" in sys.modules:
        _configure()


def _configure() -> None:
    configure, _setup.configure = _setup.configure, None
    if configure:
        configure()


def _tell(level: str, event: str, fields: dict[str, object]) -> None:
    if _setup.configure and LEVELS[level] < _setup.heard_from:
        return
    import structlog  # noqa: PLC0415  see above

    _configure()
    getattr(structlog.get_logger(), level)(event, **fields)
