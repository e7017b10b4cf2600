"""Apps that are in a store already, as the source of another store: a factory's, a bundle's.

Nothing is unpacked or pinned anew: an App is its blobs and its view, and a copy of both is
the same App. Blobs are hashed while they are copied.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.adapters import files
from agent.adapters.authoring.examine import app_blobs, app_extras
from agent.adapters.authoring.store import Blob, copy_file
from agent.core.authoring import AuthoringError, Descriptor
from agent.core.target import AppRef

URI = "uri"
VIEW_FILES_LIMIT = 4096  # an image has two, an App three more


@dataclass(frozen=True, slots=True)
class StoredApp:
    """One App of a store.

    Attributes:
        ref: its name and pinned URI.
        store: the directory that holds ``apps`` and ``blobs``.
    """

    ref: AppRef
    store: Path

    @property
    def archs(self) -> frozenset[str]:
        """Nothing: what its images are for is said by the Target that lists it."""
        return frozenset()

    @property
    def view(self) -> Path:
        """Its view."""
        return self.store / "apps" / self.ref.name / self.ref.digest

    @property
    def view_size(self) -> int:
        """Bytes of its view."""
        return sum(path.stat().st_size for path in self._view_files())

    def blobs(self) -> Iterator[Blob]:
        """Yield all blobs of it.

        Raises:
            AuthoringError: one is missing, or what lists them is damaged.
        """
        blobs = self.store / "blobs" / "sha256"
        extras = (name for name in app_extras(blobs, self.ref) if (blobs / name).is_file())
        for name in (*app_blobs(blobs, self.ref), *extras):
            path = blobs / name
            if not path.is_file():
                raise AuthoringError(
                    f"blob sha256:{name} of App {self.ref.name!r} is missing in '{self.store}'",
                    hint="add the Target to the factory again",
                )
            descriptor = Descriptor("", f"sha256:{name}", path.stat().st_size)
            yield Blob(descriptor, lambda path=path: path.open("rb"))  # type: ignore[misc]

    def write_view(self, view: Path, blobs: Path) -> None:
        """Copy what readers find it by, but for ``uri``."""
        del blobs  # its own view has all of it
        for path in self._view_files():
            copy = view / path.relative_to(self.view)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy_file(path, copy)
        files.sync_directory(view)

    def _view_files(self) -> list[Path]:
        found = [path for path in sorted(self.view.rglob("*")) if path.is_file()]
        if len(found) > VIEW_FILES_LIMIT:
            raise AuthoringError(f"'{self.view}' has {len(found)} files; that is no App's view")
        return [path for path in found if path.name != URI and not path.name.startswith(".")]


@contextmanager
def stored_apps(store: Path, apps: Sequence[AppRef]) -> Iterator[tuple[StoredApp, ...]]:
    """Find Apps in a store.

    Raises:
        AuthoringError: one is not there.
    """
    found = tuple(StoredApp(app, store) for app in apps)
    for app in found:
        if not (app.view / URI).is_file():
            raise AuthoringError(
                f"App {app.ref.name!r} ({app.ref.uri}) is not in '{store}'",
                hint="add the Target to the factory again, with its Apps",
            )
    yield found
