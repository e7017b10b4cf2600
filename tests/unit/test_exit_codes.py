"""Exit statuses are a contract: the numbers, and the one sentence each."""

import pytest

from agent.core import errors
from agent.core.errors import AgentError, BundleError, DeviceError
from agent.core.outcome import CheckExit, ExitCode, InstallExit, NextStep, RunExit

INSTALL = {0, 1, 4, 6, 8, 10, 11, 12, 14, 15, 30, 50, 70, 90, 100, 102}
RUN = {0, 1, 5, 40, 90, 99, 100, 110, 120}
CHECK = {0, 1, 4, 6, 8, 11, 12, 14, 15, 16, 30, 90, 102}

EVERY = [*InstallExit, *RunExit, *CheckExit]


def leaves(base: type[AgentError]) -> list[type[AgentError]]:
    return [leaf for child in base.__subclasses__() for leaf in leaves(child)] or [base]


@pytest.mark.parametrize(
    ("enum", "numbers"), [(InstallExit, INSTALL), (RunExit, RUN), (CheckExit, CHECK)]
)
def test_the_numbers_are_the_documented_ones(enum: type[ExitCode], numbers: set[int]) -> None:
    assert numbers == {int(code) for code in enum}


@pytest.mark.parametrize("code", EVERY, ids=lambda code: f"{type(code).__name__}-{int(code)}")
def test_every_exit_has_a_sentence(code: ExitCode) -> None:
    assert code.meaning[0].isupper()
    assert code.meaning.endswith(".")
    assert code.next_step in NextStep


def test_every_next_step_has_a_sentence() -> None:
    assert all(step.sentence.endswith(".") for step in NextStep)


# What is said at an author's desk blames neither a stick nor a device.
FAILURES = [leaf for leaf in leaves(AgentError) if leaf.__module__ == errors.__name__]


@pytest.mark.parametrize("leaf", FAILURES, ids=lambda leaf: leaf.__name__)
def test_every_failure_blames_the_stick_or_the_device(leaf: type[AgentError]) -> None:
    assert issubclass(leaf, BundleError) != issubclass(leaf, DeviceError)
    assert isinstance(leaf.exit, ExitCode)


def test_reasons_are_unique() -> None:
    reasons = [leaf.reason for leaf in leaves(AgentError) if leaf.__module__ == errors.__name__]

    assert len(set(reasons)) == len(reasons)
