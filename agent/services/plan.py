"""``plan``: every bundle and Target found, each with the gate that refused it.

In: a `Station` and the bundles of a medium. Out: one `BundleView` a bundle. Nothing on
the device changes, metadata is not remembered; `choose_bundle` then says which bundle an
attempt should walk with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from agent.core.errors import AgentError
from agent.core.policy import Plan, Refusal, gate
from agent.core.target import Target
from agent.ports import Medium
from agent.services.check import Standing, choose, examine
from agent.services.station import Station


@dataclass(frozen=True, slots=True)
class TargetView:
    """One Target of a bundle, and why this device cannot take it (None: it can)."""

    target: Target
    refusal: Refusal | None


@dataclass(frozen=True, slots=True)
class BundleView:
    """One bundle as this device sees it.

    Attributes:
        origin: where it lies, for people.
        medium: the bundle itself.
        error: why the whole bundle is refused; None when it verified.
        targets: its Targets, empty when it did not verify.
        decision: what an attempt would do; None when the bundle did not verify.
        tag, bundle_type, expires: of a verified bundle.
    """

    origin: str
    medium: Medium
    error: AgentError | None = None
    targets: tuple[TargetView, ...] = ()
    decision: Plan | Refusal | None = None
    tag: str = ""
    bundle_type: str = ""
    expires: datetime | None = None


def look(
    station: Station, standing: Standing, origin: str, medium: Medium, *, automatic: bool = True
) -> BundleView:
    """Judge one bundle without changing anything.

    Args:
        station: the device.
        standing: what it is judged by.
        origin: where the bundle lies, for people.
        medium: the bundle.
        automatic: judge as the service does: what rolled back here is not retried.
    """
    try:
        examined = examine(station, medium, standing, remember=False)
    except AgentError as e:
        return BundleView(origin, medium, error=e)
    bundle = examined.bundle
    views = tuple(
        TargetView(t, gate(t, examined.inventory, examined.facts, automatic=automatic))
        for t in bundle.targets
    )
    decision = choose(station, examined, automatic=automatic)
    return BundleView(
        origin, medium, None, views, decision, bundle.tag, bundle.bundle_type or "", bundle.expires
    )


def choose_bundle(views: Sequence[BundleView]) -> BundleView | None:
    """Return the bundle to walk with: an update first, the highest version of them.

    Without an update, the one that came furthest: its refusal explains the most.
    """
    return max(views, key=_merit, default=None)


def _merit(view: BundleView) -> tuple[int, int]:
    decision = view.decision
    if decision is None:
        return (0, 0)
    version = decision.target.version if decision.target else -1
    return (2 if isinstance(decision, Plan) else 1, version)
