"""Mounts in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agent.core.errors import FileSystemRefusedError, MountError
from agent.core.stick import BlockEvent


@dataclass(slots=True)
class MemoryMounts:
    """Directories that stand for sticks.

    Attributes:
        sticks: devnode to the directory of its content.
        filesystems: what may be mounted.
        write_protected: devnodes that cannot be written.
        automounted: devnodes an automounter has mounted; None when we mount ourselves.
        mounted: what is mounted now, as ``(devnode, "ro" or "rw")``.
    """

    sticks: dict[str, Path] = field(default_factory=dict)
    filesystems: tuple[str, ...] = ("vfat", "exfat", "ext4")
    write_protected: set[str] = field(default_factory=set)
    automounted: set[str] | None = None
    mounted: list[tuple[str, str]] = field(default_factory=list)
    cleaned: int = 0

    def ready(self, event: BlockEvent) -> bool:
        refused = event.fs_type not in self.filesystems
        return refused or self.automounted is None or event.devnode in self.automounted

    @contextmanager
    def mounted_ro(self, event: BlockEvent) -> Iterator[Path]:
        with self._mounted(event, "ro") as path:
            yield path

    @contextmanager
    def mounted_rw(self, event: BlockEvent) -> Iterator[Path]:
        with self._mounted(event, "rw") as path:
            yield path

    @contextmanager
    def _mounted(self, event: BlockEvent, mode: str) -> Iterator[Path]:
        if event.fs_type not in self.filesystems:
            raise FileSystemRefusedError(f"'{event.devnode}' holds {event.fs_type!r}")
        if not self.ready(event) or event.devnode not in self.sticks:
            raise MountError(f"'{event.devnode}' is gone")
        if mode == "rw" and event.devnode in self.write_protected:
            raise MountError(f"'{event.devnode}' is write-protected")
        assert not any(devnode == event.devnode for devnode, _ in self.mounted)
        self.mounted.append((event.devnode, mode))
        try:
            yield self.sticks[event.devnode]
        finally:
            self.mounted.remove((event.devnode, mode))

    def clean(self) -> None:
        self.cleaned += 1
        self.mounted.clear()
