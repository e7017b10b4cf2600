"""The service manager: ready, alive, and a sentence for ``systemctl status``.

Source: sd_notify(3).
"""

import os
import socket
from dataclasses import dataclass

from agent.core.feedback import Signal
from agent.log import get_logger

log = get_logger()


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """Who started us, if it listens.

    Attributes:
        address: ``$NOTIFY_SOCKET``; empty when nobody listens.
        watchdog_s: how often to say `alive`, half of what is allowed; 0 for never.
    """

    address: str = ""
    watchdog_s: float = 0.0

    @classmethod
    def from_environment(cls) -> "ServiceManager":
        """Find it as the environment says."""
        ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        allowed = os.environ.get("WATCHDOG_USEC", "") if ours else ""
        half_s = int(allowed) / 2_000_000 if allowed.isdecimal() else 0.0
        return cls(os.environ.get("NOTIFY_SOCKET", ""), half_s)

    def ready(self) -> None:
        """Say that the start is complete."""
        self._say("READY=1")

    def alive(self) -> None:
        """Keep the watchdog calm."""
        self._say("WATCHDOG=1")

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._say("STOPPING=1")

    def show(self, signal: Signal) -> None:
        """See `bus.Sink`."""
        self._send(f"STATUS={signal.sentence}")

    def _say(self, state: str) -> None:
        try:
            self._send(state)
        except OSError as e:
            log.warning("signal.unavailable", sink="ServiceManager", state=state, error=str(e))

    def _send(self, state: str) -> None:
        if not self.address:
            return
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.settimeout(0)
            notify.sendto(state.encode(), address)
