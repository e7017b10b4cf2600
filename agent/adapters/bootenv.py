"""The boot loader's environment, by ``[bootloader] rollback_mode``.

Host commands used: ``fw_printenv`` and ``fw_setenv`` (uboot_generic, uboot_masked),
``fiovb_printenv`` and ``fiovb_setenv`` (fiovb), ``fioefi_printenv`` and
``fioefi_setenv`` (fioefi), ``grub-editenv`` (grub).

A variable is written only when it differs, for it lies in flash; then it is read back,
for some of these programs end with status 0 and have written nothing. The boot loader
counts boots in ``bootcount`` and falls back on its own; it is never decided here.

Source: reference-behaviour §9.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from agent.adapters import shell
from agent.core.config import Bootloader
from agent.core.errors import BootEnvError
from agent.log import get_logger
from agent.ports import BootEnv

log = get_logger()

DEADLINE_S = 30.0  # a slow SPI flash takes seconds for one sector


class Variables(Protocol):
    """The variables of one boot loader."""

    def get(self, name: str) -> str | None:
        """Return a variable, trimmed; None when it is not set or cannot be read."""

    def put(self, name: str, value: str) -> None:
        """Write a variable.

        Raises:
            CommandError: the program failed.
        """


@dataclass(frozen=True, slots=True)
class ToolVariables:
    """Variables behind a pair of programs ``<prefix>_printenv``, ``<prefix>_setenv``.

    Attributes:
        prefix: ``fw``, ``fiovb`` or ``fioefi``.
        env: gives variables of the programs' own environment.
    """

    prefix: str
    env: Callable[[], Mapping[str, str]] = field(default=dict)

    def get(self, name: str) -> str | None:
        """Return a variable, trimmed; None when it is not set or cannot be read."""
        return _output([f"{self.prefix}_printenv", *self._only_value(), name], self.env())

    def put(self, name: str, value: str) -> None:
        """Write a variable. One at a time: ``fw_setenv -s`` skips lines it cannot read."""
        shell.run([f"{self.prefix}_setenv", name, value], timeout_s=DEADLINE_S, env=self.env())

    def _only_value(self) -> Sequence[str]:
        """Ask U-Boot's program for the value alone; the others print nothing else."""
        return ("-n",) if self.prefix == "fw" else ()


@dataclass(frozen=True, slots=True)
class GrubVariables:
    """Variables in GRUB's environment block.

    Attributes:
        block: the file, as ``load_env`` in ``grub.cfg`` reads it.
    """

    block: Path

    def get(self, name: str) -> str | None:
        """Return a variable, trimmed; None when it is not set or cannot be read."""
        listed = _output(["grub-editenv", str(self.block), "list"], {}) or ""
        pairs = (line.partition("=") for line in listed.splitlines())
        return next((value.strip() for key, _, value in pairs if key == name), None)

    def put(self, name: str, value: str) -> None:
        """Write a variable; an environment block that is not there is made first."""
        if not self.block.exists():
            shell.run(["grub-editenv", str(self.block), "create"], timeout_s=DEADLINE_S)
        argv = ["grub-editenv", str(self.block), "set", f"{name}={value}"]
        shell.run(argv, timeout_s=DEADLINE_S)


class NoBootEnv:
    """ports.BootEnv of a boot loader that counts nothing (``rollback_mode = "none"``)."""

    counts_boots = False
    updates_firmware = False

    def confirm_boot(self) -> None:
        """There is nobody to tell."""

    def expect_new_rootfs(self) -> None:
        """There is nobody to tell."""

    def firmware_update_pending(self) -> bool:
        """Never: this mode knows no boot firmware."""
        return False

    def rollback_protected(self) -> bool:
        """Never: this mode knows no boot firmware."""
        return False

    def firmware_version(self) -> str | None:
        """None: this mode knows no boot firmware."""
        return None

    def flag_firmware_update(self) -> None:
        """There is nobody to tell."""


class VariableBootEnv:
    """ports.BootEnv by variables.

    Args:
        variables: where they are.
        masked: whether ``upgrade_available`` says when boots are counted; such a boot
            loader knows about boot firmware too.

    Raises (every method that writes):
        BootEnvError: a variable does not hold what was written.
    """

    counts_boots = True

    def __init__(self, variables: Variables, *, masked: bool) -> None:
        self._variables = variables
        self._masked = masked

    @property
    def updates_firmware(self) -> bool:
        """Whether this mode knows about boot firmware updates."""
        return self._masked

    def confirm_boot(self) -> None:
        """Tell the boot loader that this boot is good."""
        # Counting ends first: a power cut in between must not leave it on with no count.
        if self._masked:
            self._set("upgrade_available", "0")
        self._set("bootcount", "0")

    def expect_new_rootfs(self) -> None:
        """Tell the boot loader that the next boot tries something new."""
        self._set("bootcount", "0")
        self._set("rollback", "0")
        if self._masked:
            self._set("upgrade_available", "1")

    def firmware_update_pending(self) -> bool:
        """Whether an earlier boot firmware update still waits for its reboot."""
        return self._masked and self._variables.get("bootupgrade_available") == "1"

    def rollback_protected(self) -> bool:
        """Whether older boot firmware must be refused."""
        return self._masked and self._variables.get("rollback_protection") == "1"

    def firmware_version(self) -> str | None:
        """Return the version of the boot firmware that runs."""
        return (self._variables.get("bootfirmware_version") or None) if self._masked else None

    def flag_firmware_update(self) -> None:
        """Tell the boot loader that the new rootfs brings new boot firmware."""
        if self._masked:
            self._set("bootupgrade_available", "1")

    def _set(self, name: str, value: str) -> None:
        if self._variables.get(name) == value:
            return
        try:
            self._variables.put(name, value)
        except shell.CommandError as e:
            raise BootEnvError(
                f"the boot loader's {name!r} could not be set to {value!r}: {e}",
                hint="install the boot loader's tools, or correct [bootloader] rollback_mode",
            ) from e
        self._check(name, value)
        log.info("bootenv.written", variable=name, value=value)

    def _check(self, name: str, value: str) -> None:
        found = self._variables.get(name)
        if found != value:
            raise BootEnvError(
                f"the boot loader's {name!r} was set to {value!r}, but is {found!r}",
                hint="check the environment's location, for example /etc/fw_env.config",
            )


def boot_env(
    settings: Bootloader, *, new_deployment: Callable[[], Path | None] = lambda: None
) -> BootEnv:
    """Return the environment of the configured ``rollback_mode``.

    Args:
        settings: ``[bootloader]``.
        new_deployment: gives the directory of the deployment just staged; fioefi takes
            the new boot firmware from there.
    """
    mode = settings.rollback_mode
    if mode == "none":
        return NoBootEnv()
    if mode == "grub":
        return VariableBootEnv(GrubVariables(Path(settings.grubenv_path)), masked=True)
    if mode in ("fiovb", "fioefi"):
        env = _fioefi_env(new_deployment) if mode == "fioefi" else dict
        return VariableBootEnv(ToolVariables(mode, env), masked=True)
    return VariableBootEnv(ToolVariables("fw"), masked=mode == "uboot_masked")


def _fioefi_env(new_deployment: Callable[[], Path | None]) -> Callable[[], Mapping[str, str]]:
    def env() -> Mapping[str, str]:
        sysroot = new_deployment()
        return {"FIO_OSTREE_TARGET_SYSROOT": str(sysroot)} if sysroot else {}

    return env


def _output(argv: Sequence[str], env: Mapping[str, str]) -> str | None:
    """Return what a program printed, trimmed; None when it failed."""
    try:
        return shell.run(argv, timeout_s=DEADLINE_S, env=env).text.strip()
    except shell.CommandError as e:
        log.debug("bootenv.unreadable", variable=argv[-1], message=str(e))
        return None
