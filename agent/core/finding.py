"""What an examination of a device found, and how to mend it."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is; the value is the wire's spelling."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: how bad it is.
        topic: what was looked at, in one or two words.
        message: what was found.
        hint: how to mend it; empty when nothing is to be mended.
    """

    level: Level
    topic: str
    message: str
    hint: str = ""


def worst(findings: tuple[Finding, ...]) -> Level:
    """Return the worst level; OK when nothing was found."""
    order = tuple(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)
