"""Settings → what attending to a stick needs, and the post-boot ``run``."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agent import wiring
from agent.adapters.medium import find_bundles
from agent.adapters.resultfiles import StickLetterbox
from agent.core.config import Configuration, Settings
from agent.core.errors import AgentError
from agent.core.finalize import RunStep, decide
from agent.core.outcome import Outcome
from agent.core.stick import BlockEvent
from agent.core.target import Target
from agent.log import get_logger
from agent.services.attend import House, finish_and_report
from agent.services.check import run_facts
from agent.services.consent import Asking, Consent
from agent.services.night import RebootPolicy
from agent.services.station import Station
from agent.wiring_command import make_logbook
from agent.wiring_watch import Tools, make_night, make_tools

log = get_logger()


def make_house(
    tools: Tools, *, asking: Asking | None = None, breathe: Callable[[], None] = lambda: None
) -> House:
    """Put everything an attempt needs in its place.

    Args:
        tools: shared with the daemon.
        asking: how consent is asked for; None where nobody is asked, after a boot.
        breathe: called now and then during a long copy.
    """
    settings, services = tools.settings, tools.services

    @contextmanager
    def alone() -> Iterator[Station]:
        services.stop()
        try:
            with wiring.locked_station(settings) as station:
                yield station
        finally:
            services.restore()

    return House(
        opened_station=alone,
        mounts=tools.mounts,
        find_bundles=find_bundles,
        medium=lambda path: wiring.found_medium(path, settings.storage),
        is_there=os.path.lexists,
        letterbox=StickLetterbox,
        logbook=make_logbook(settings, tools.telling.bus, tools.recorder),
        consent=_consent(settings, asking),
        breathe=breathe,
        automatic=settings.usb_update.auto,
        results=settings.usb_update.results,
    )


def finish(found: Configuration, *, log_level: int | None = None) -> Outcome:
    """Do the post-boot ``run``, keep its record, and reboot if the policy says now."""
    tools = make_tools(found, log_level=log_level, listening=False)
    try:
        outcome = finish_and_report(make_house(tools))
        night = make_night(tools)
        night.hear(outcome)
        if night.policy is RebootPolicy.NOW:
            night.on_idle()
        return outcome
    finally:
        tools.telling.close()


def awaits_reboot(settings: Settings) -> bool:
    """Whether an update of ours is staged and this is still the boot before it."""
    try:
        station = wiring.make_station(settings)
        promised = station.ledger.promised() is not None
        return promised and decide(run_facts(station)) is RunStep.AWAIT_REBOOT
    except AgentError as e:
        log.warning("reboot.unknown", message=e.message)
        return False


def confirms_itself(target: Target) -> bool:
    """Whether the signed Target says that nobody need confirm it (docs/bundle-format.md)."""
    ours = json.loads(target.custom_json).get("usb-update")
    return isinstance(ours, dict) and ours.get("confirmed") is True


def _consent(settings: Settings, asking: Asking | None) -> Callable[[BlockEvent, Target], bool]:
    def ask(event: BlockEvent, target: Target) -> bool:
        if asking is None:
            return False
        detail = f"{target.name} will be installed. Pull the stick out to cancel."
        signed = settings.usb_update.confirm_by_bundle and confirms_itself(target)
        return asking.ask(event, detail=detail, confirmed_by_bundle=signed) is Consent.GIVEN

    return ask
