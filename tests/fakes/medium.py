"""A bundle in memory, with the rules of the real one (``tests/contract``)."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from agent.core.bundle import Inventory, RawBundle, SealedImage
from agent.core.errors import MetadataNotFoundError
from agent.core.target import Target
from agent.core.verify import limit_of
from agent.ports import Progress


@dataclass(frozen=True)
class MemoryMedium:
    """What a stick holds.

    Attributes:
        metadata: every file in ``tuf``, junk included; None for no ``tuf`` directory.
        commits: commits whose commit object is there.
        app_uris: exact text of every ``uri`` file.
        path: where it pretends to be; `MemorySysroot.offered` is keyed by `ostree_repo`.
    """

    metadata: Mapping[str, bytes] | None
    commits: frozenset[str] = frozenset()
    app_uris: frozenset[str] = frozenset()
    path: Path = field(default=Path("stick"))

    @property
    def ostree_repo(self) -> Path:
        return self.path / "ostree_repo"

    @property
    def apps(self) -> Path:
        return self.path / "apps"

    def read(self) -> RawBundle:
        if self.metadata is None:
            raise MetadataNotFoundError(f"there is no directory '{self.path}/tuf'")
        named = {n: data for n, data in self.metadata.items() if limit_of(n)}
        return RawBundle(named, str(self.path))

    def opened(
        self, image: SealedImage | None, progress: Progress
    ) -> AbstractContextManager["MemoryMedium"]:
        return nullcontext(self)

    def inventory(self, targets: Sequence[Target]) -> Inventory:
        return Inventory(
            commits=self.commits & {target.commit for target in targets},
            app_uris=self.app_uris & {app.uri for target in targets for app in target.apps},
        )
