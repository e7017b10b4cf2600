"""Images in the Docker engine: loaded from the store, pinned by digest, never pulled.

One stream serves every engine: an OCI layout with a ``manifest.json`` beside it. The
classic store reads the latter and knows an image by the digest of its configuration; the
containerd store reads the former and knows it by the digest it is pinned to. Either way
the engine's ID is a digest of bytes that the App vouches for, so an ID is compared before
each use: a tag can be moved by anyone who may talk to the engine.

Uses the docker SDK (Engine API ``/images``, ``/containers``).
"""

import json
import os
import socket
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.adapters.apps.manifest import Image
from agent.adapters.files import open_regular
from agent.core.errors import AppError, AppStartError
from agent.log import get_logger

if TYPE_CHECKING:
    from docker import APIClient

log = get_logger()

CHUNK_BYTES = 1024 * 1024
ENGINE_TIMEOUT_S = 60
LOAD_TIMEOUT_S = 3600  # of silence: the classic store says nothing while it unpacks
POLL_S = 0.5
LOG_LINES = 20
LOG_LIMIT = 2000  # characters of a container's log that a message repeats
QUOTE_LIMIT = 600
TAR_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True)
class Container:
    """A container of a compose project.

    Attributes:
        id: the engine's.
        service: its compose service.
        state: ``created``, ``running``, ``exited``, ...
        config_hash: label ``io.compose-spec.config-hash``, empty without one.
    """

    id: str
    service: str
    state: str
    config_hash: str


@dataclass(frozen=True, slots=True)
class Health:
    """What the engine says of a container.

    Attributes:
        state: ``running``, ``exited``, ``restarting``, ...
        health: ``starting``, ``healthy``, ``unhealthy``; empty without a health check.
        exit_code: of its last end.
    """

    state: str
    health: str
    exit_code: int


class Engine:
    """The Docker engine.

    Args:
        host: ``unix:///...`` or ``tcp://...``.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._version = "auto"  # asked for once: it costs as much as the question it precedes

    def await_answer(self, timeout_s: float) -> None:
        """Wait until the engine answers.

        Raises:
            AppError: it did not in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                with self._client(ENGINE_TIMEOUT_S):
                    return
            except AppError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(POLL_S)

    # --- images ---

    def resolve(self, reference: str) -> str:
        """Return the ID a reference or ID means to the engine; empty when it has none."""
        found = self._ask(
            "image",
            lambda api: api.inspect_image(reference),  # type: ignore[no-untyped-call]
            missing_is_none=True,
        )
        return str(found["Id"]) if found else ""

    def load(self, image: Image, blob: Callable[[str], Path]) -> None:
        """Make the image known under its short tag, loading it unless it is there already.

        Args:
            image: which.
            blob: where the store keeps a digest.

        Raises:
            AppStartError: the engine did not take it.
            AppError: there is no engine.
        """
        tag = image.ref.short_tag
        if self.resolve(tag) in image.ids:
            return
        present = next((i for i in sorted(image.ids) if self.resolve(i)), "")
        if present:
            self._tag(present, image)
        else:
            self._stream(image, blob)
        if self.resolve(tag) not in image.ids:
            raise AppStartError(
                f"the engine holds another image as '{tag}' than the one that was loaded; "
                f"expected one of {sorted(image.ids)}"
            )
        log.info("image.loaded", image=tag, streamed=not present)

    def usable_reference(self, image: Image) -> str:
        """Return the name by which compose finds exactly this image.

        Returns:
            The pinned reference itself where the engine resolves it, else the short tag;
            empty when it has neither.
        """
        names = (image.ref.reference, image.ref.short_tag)
        return next((name for name in names if self.resolve(name) in image.ids), "")

    def remove(self, tag: str) -> bool:
        """Remove an image's tag; whether it is gone. One that is in use stays."""
        from docker.errors import APIError, ImageNotFound  # noqa: PLC0415

        try:
            with self._client(ENGINE_TIMEOUT_S) as api:
                api.remove_image(tag)
        except ImageNotFound:
            return True
        except (APIError, AppError) as e:
            log.info("image.kept", image=tag, reason=_complaint(e))
            return False
        return True

    def _tag(self, present: str, image: Image) -> None:
        short = image.ref.short_tag.rpartition(":")[2]
        self._ask("image", lambda api: api.tag(present, image.ref.repository, short, force=True))

    def _stream(self, image: Image, blob: Callable[[str], Path]) -> None:
        from docker.errors import DockerException  # noqa: PLC0415
        from requests.exceptions import RequestException  # noqa: PLC0415

        try:
            with self._client(LOAD_TIMEOUT_S) as api:
                stream = image_stream(image, blob)
                answers = api.load_image(stream, quiet=True)  # type: ignore[no-untyped-call]
                complaints = [str(a["error"]) for a in answers if "error" in a]
        except (DockerException, RequestException) as e:
            complaints = [_complaint(e)]
        if complaints:
            # The containerd store may keep the name of an image whose content it refused.
            self.remove(image.ref.short_tag)
            raise AppStartError(
                f"image '{image.ref.reference}' cannot be loaded: {complaints[0][:QUOTE_LIMIT]}"
            )

    # --- containers ---

    def containers(self, project: str) -> tuple[Container, ...]:
        """Return the containers of a compose project, one-off ones left out."""
        labels = [f"com.docker.compose.project={project}", "com.docker.compose.oneoff=False"]
        found = self._ask(
            "container", lambda api: api.containers(all=True, filters={"label": labels})
        )
        return tuple(_container(entry) for entry in found or ())

    def health(self, container: str) -> Health:
        """Return what the engine says of a container."""
        state = self._ask("container", lambda api: api.inspect_container(container)["State"])
        return Health(
            str(state["Status"]),
            str((state.get("Health") or {}).get("Status", "")),
            int(state.get("ExitCode", 0)),
        )

    def last_words(self, container: str) -> str:
        """Return the end of a container's log, bounded; empty when it cannot be had."""
        with suppress(AppError):
            text = self._ask("container", lambda api: api.logs(container, tail=LOG_LINES))
            return bytes(text or b"").decode("utf-8", "replace").strip()[-LOG_LIMIT:]
        return ""

    # --- the connection ---

    @contextmanager
    def _client(self, timeout_s: int) -> Iterator["APIClient"]:
        api = self._connect(timeout_s)
        try:
            yield api
        finally:
            api.close()

    def _connect(self, timeout_s: int) -> "APIClient":
        from docker import APIClient  # noqa: PLC0415  large; only Apps need it
        from docker.errors import DockerException  # noqa: PLC0415

        try:
            _knock(self._host)
            api = APIClient(base_url=self._host, version=self._version, timeout=timeout_s)
            self._version = api.api_version
            return api  # noqa: TRY300  the errors are those of the three lines above
        except (DockerException, OSError) as e:
            raise AppError(
                f"the Docker engine at '{self._host}' does not answer: {_complaint(e)}",
                hint="start docker.service, or set DOCKER_HOST",
            ) from e

    def _ask(
        self,
        what: str,
        question: Callable[["APIClient"], Any],
        *,
        missing_is_none: bool = False,
    ) -> Any:  # noqa: ANN401  the engine's JSON
        """Put one question to the engine.

        Raises:
            AppError: it does not answer, or there is no such thing.
        """
        from docker.errors import DockerException, NotFound  # noqa: PLC0415
        from requests.exceptions import RequestException  # noqa: PLC0415

        try:
            with self._client(ENGINE_TIMEOUT_S) as api:
                return question(api)
        except NotFound as e:
            if missing_is_none:
                return None
            raise AppError(f"the engine has no such {what}: {_complaint(e)}") from e
        except (DockerException, RequestException) as e:
            raise AppError(f"the engine does not answer about a {what}: {_complaint(e)}") from e


def _knock(host: str) -> None:
    """See that somebody listens: the SDK leaves its socket open when nobody does.

    Raises:
        OSError: nobody does.
    """
    scheme, _, path = host.partition("://")
    if scheme == "unix":
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(ENGINE_TIMEOUT_S)
            door.connect(path)


def _container(entry: Mapping[str, Any]) -> Container:
    labels = entry.get("Labels") or {}
    return Container(
        id=str(entry["Id"]),
        service=str(labels.get("com.docker.compose.service", "")),
        state=str(entry.get("State", "")),
        config_hash=str(labels.get("io.compose-spec.config-hash", "")),
    )


def _complaint(error: Exception) -> str:
    said = getattr(error, "explanation", None) or error
    return " ".join(str(said).split())[:QUOTE_LIMIT]


# --- the stream ------------------------------------------------------------------------


def image_stream(image: Image, blob: Callable[[str], Path]) -> Iterator[bytes]:
    """Yield a tar that every engine loads, never more than `CHUNK_BYTES` of it at a time."""
    yield from _member("oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
    yield from _member("index.json", _json(_index(image)))
    yield from _member("manifest.json", _json([_saved(image)]))
    for each in image.blobs:
        yield from _file(f"blobs/sha256/{each.digest}", blob(each.digest))
    yield bytes(2 * TAR_BLOCK)


def _index(image: Image) -> dict[str, object]:
    """Describe the image as an OCI layout does, under the name containerd gives it."""
    tag = image.ref.short_tag
    root = {
        "mediaType": image.root_type,
        "digest": f"sha256:{image.root.digest}",
        "size": image.root.size,
        "annotations": {
            "io.containerd.image.name": tag,
            "org.opencontainers.image.ref.name": tag.rpartition(":")[2],
        },
    }
    return {"schemaVersion": 2, "manifests": [root]}


def _saved(image: Image) -> dict[str, object]:
    """Describe the image as ``docker save`` does."""
    return {
        "Config": f"blobs/sha256/{image.config.digest}",
        "RepoTags": [image.ref.short_tag],
        "Layers": [f"blobs/sha256/{layer.digest}" for layer in image.layers],
    }


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _member(name: str, data: bytes) -> Iterator[bytes]:
    yield _header(name, len(data)) + data + _padding(len(data))


def _file(name: str, path: Path) -> Iterator[bytes]:
    with open_regular(path) as fd:
        size = os.fstat(fd).st_size
        yield _header(name, size)
        left = size
        while left and (chunk := os.read(fd, min(CHUNK_BYTES, left))):
            left -= len(chunk)
            yield chunk
        # An empty chunk is the end of a request to `requests` before 2.29, so there is none.
        if rest := bytes(left) + _padding(size):  # left is 0 unless somebody cut the blob short
            yield rest


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % TAR_BLOCK)


def wait_healthy(
    engine: Engine, containers: Sequence[Container], app: str, timeout_s: float
) -> None:
    """Wait until each container's health check says healthy.

    Args:
        engine: which to ask.
        containers: those to wait for.
        app: the App's name, for messages.
        timeout_s: for all of them together.

    Raises:
        AppStartError: one ended, is unhealthy, or was not healthy in time.
    """
    deadline = time.monotonic() + timeout_s
    waiting = list(containers)
    while waiting := [c for c in waiting if not _is_healthy(engine, c, app)]:
        if time.monotonic() >= deadline:
            names = ", ".join(sorted({repr(c.service) for c in waiting}))
            raise AppStartError(
                f"service {names} of App {app!r} was not healthy after {timeout_s:g} s"
                f"{_words(engine, waiting[:1])}"
            )
        time.sleep(POLL_S)


def _is_healthy(engine: Engine, container: Container, app: str) -> bool:
    found = engine.health(container.id)
    if found.state in ("exited", "dead"):
        raise AppStartError(
            f"service {container.service!r} of App {app!r} ended with status {found.exit_code} "
            f"before it was healthy{_words(engine, [container])}"
        )
    if found.health == "unhealthy":
        raise AppStartError(
            f"service {container.service!r} of App {app!r} is unhealthy"
            f"{_words(engine, [container])}"
        )
    return found.health == "healthy"


def _words(engine: Engine, containers: Iterable[Container]) -> str:
    said = [text for c in containers if (text := engine.last_words(c.id))]
    return f"; its log ends: {said[0]}" if said else ""
