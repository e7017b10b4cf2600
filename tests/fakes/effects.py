"""How a fake changes its device: through one door, so that a World can cut the power there."""

from collections.abc import Callable

Effect = Callable[[Callable[[], object]], None]
"""Carries out a change of the disk; may raise before or after it."""


def at_once(change: Callable[[], object]) -> None:
    """Carry a change out: there is no power cut."""
    change()
