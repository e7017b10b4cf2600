"""What `run` does, for every state a power cut can leave."""

from dataclasses import replace
from itertools import product

import pytest

from agent.core.finalize import RunFacts, RunStep, decide
from agent.core.promise import Phase, Promise, PromiseKind
from agent.core.target import Target

OLD = Target("lmp-1", 1, "1" * 64)
NEW = Target("lmp-2", 2, "2" * 64)
APPS_ONLY = Target("lmp-3", 3, OLD.commit)


def promise(phase: Phase, target: Target = NEW, **changes: object) -> Promise:
    made = Promise(target, phase, "boot-1", target.commit != OLD.commit, OLD.commit)
    return replace(made, **changes)


def facts(**changes: object) -> RunFacts:
    return replace(RunFacts(None, None, OLD, OLD.commit, None, rebooted=False), **changes)


@pytest.mark.parametrize(
    ("expected", "state"),
    [
        (RunStep.NOTHING, {}),
        (RunStep.FORGET, {"promise": promise(Phase.COPYING)}),
        (RunStep.FORGET, {"promise": promise(Phase.COPYING), "rebooted": True}),
        # cut between the promise and the deployment
        (RunStep.FORGET, {"promise": promise(Phase.STAGING), "rebooted": True}),
        # cut between the deployment and the pending row
        (
            RunStep.AWAIT_REBOOT,
            {"promise": promise(Phase.STAGING), "staged_commit": NEW.commit},
        ),
        (
            RunStep.START_APPS,
            {"promise": promise(Phase.STAGING), "booted_commit": NEW.commit, "rebooted": True},
        ),
        (
            RunStep.BOOT_ROLLBACK,
            {
                "promise": promise(Phase.STAGING),
                "staged_commit": NEW.commit,
                "rebooted": True,
            },
        ),
        # the usual ways
        (RunStep.AWAIT_REBOOT, {"promise": promise(Phase.STAGED), "pending": NEW}),
        (
            RunStep.START_APPS,
            {"promise": promise(Phase.STAGED), "pending": NEW, "booted_commit": NEW.commit},
        ),
        (
            RunStep.BOOT_ROLLBACK,
            {"promise": promise(Phase.STAGED), "pending": NEW, "rebooted": True},
        ),
        (RunStep.START_APPS, {"promise": promise(Phase.STAGED, APPS_ONLY), "pending": APPS_ONLY}),
        (RunStep.FORGET, {"promise": promise(Phase.STAGING, APPS_ONLY)}),
        # staged by another agent
        (RunStep.AWAIT_REBOOT, {"pending": NEW}),
        (RunStep.START_APPS, {"pending": NEW, "booted_commit": NEW.commit}),
        # cut after the last effect, or finished by another agent
        (
            RunStep.KEPT,
            {"promise": promise(Phase.STAGED), "current": NEW, "booted_commit": NEW.commit},
        ),
        (RunStep.FORGET, {"promise": promise(Phase.STAGED), "rebooted": True}),
        # the way back from Apps that failed
        (
            RunStep.APP_ROLLBACK,
            {
                "promise": promise(Phase.STAGING, OLD, kind=PromiseKind.APP_ROLLBACK),
                "pending": NEW,
                "booted_commit": NEW.commit,
            },
        ),
        (
            RunStep.START_APPS,
            {
                "promise": promise(Phase.STAGED, OLD, kind=PromiseKind.APP_ROLLBACK),
                "pending": OLD,
                "rebooted": True,
            },
        ),
    ],
)
def test_the_step_fits_what_is_left(expected: RunStep, state: dict[str, object]) -> None:
    assert expected is decide(facts(**state))


def test_every_combination_has_one_step() -> None:
    promises = [None] + [
        promise(phase, target, kind=kind)
        for phase, target, kind in product(Phase, (NEW, APPS_ONLY, OLD), PromiseKind)
    ]
    commits = (OLD.commit, NEW.commit)
    for p, pending, current, booted, staged, rebooted in product(
        promises, (None, NEW, APPS_ONLY), (OLD, NEW), commits, (None, *commits), (False, True)
    ):
        step = decide(RunFacts(p, pending, current, booted, staged, rebooted))

        assert step in RunStep
        assert (step is RunStep.NOTHING) == (p is None and pending is None)
