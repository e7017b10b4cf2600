"""A real registry for tests: Debian's ``docker-registry`` on a free port of this machine.

Stopped by its own process number; its files lie below the directory it is given.

Host commands used: docker-registry.
"""

import base64
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.app_store import Image
from tests.image_files import media_type

USER, PASSWORD = "author", "open-sesame-7f3a"
# bcrypt of PASSWORD, cost 5: the only kind the registry reads, and no package here makes.
HTPASSWD = "$2y$05$abcdefghijklmnopqrstuuZcgWQRqOPAPBHailzyvVbBA5O069IKi"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
TRIES = 5  # a port that was free may be taken before the registry has it


@dataclass
class Registry:
    """A running registry; a context manager that leaves no process behind.

    Attributes:
        path: an empty directory.
        locked: whether it asks for `USER` and `PASSWORD`.
    """

    path: Path
    locked: bool = False
    host: str = field(init=False, default="")
    _process: "subprocess.Popen[bytes]" = field(init=False)

    def __enter__(self) -> Self:
        for _ in range(TRIES):
            if self._start():
                return self
            self._stop()
        raise AssertionError((self.path / "log").read_text())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._stop()

    def push(self, name: str, image: Image, *, tag: str = "1") -> str:
        """Push an image by the registry's own API; returns ``host/name:tag``."""
        manifests = {image.root, image.manifest}
        for digest, data in image.blobs.items():
            if digest not in manifests:
                self._push_blob(name, digest, data)
        for digest in dict.fromkeys((image.manifest, image.root)):
            data = image.blobs[digest]
            reference = tag if digest == image.root else f"sha256:{digest}"
            self.put_manifest(name, reference, data)
        return f"{self.host}/{name}:{tag}"

    def put_manifest(self, name: str, reference: str, data: bytes) -> None:
        headers = {"Content-Type": media_type(data)}
        self._call("PUT", f"/v2/{name}/manifests/{reference}", data, headers, 201)

    def _push_blob(self, name: str, digest: str, data: bytes) -> None:
        location = self._call("POST", f"/v2/{name}/blobs/uploads/", b"", {}, 202)
        parts = urlsplit(location)
        headers = {"Content-Type": "application/octet-stream"}
        self._call("PUT", f"{parts.path}?{parts.query}&digest=sha256:{digest}", data, headers, 201)

    def _call(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str], status: int
    ) -> str:
        connection = http.client.HTTPConnection(self.host, timeout=30)
        try:
            connection.request(method, path, body, {**headers, **self._authorization()})
            answer = connection.getresponse()
            said = answer.read()
            assert answer.status == status, said
            return answer.getheader("Location") or ""
        finally:
            connection.close()

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Basic {base64_pair()}"} if self.locked else {}

    def _start(self) -> bool:
        self.host = f"127.0.0.1:{_free_port()}"
        config = self.path / "config.yml"
        config.write_text(json.dumps(self._config()))
        with (self.path / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
            )
        return self._answers()

    def _config(self) -> dict[str, object]:
        config: dict[str, object] = {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self.path / "data")}},
            "http": {"addr": self.host},
        }
        if self.locked:
            (self.path / "htpasswd").write_text(f"{USER}:{HTPASSWD}\n")
            place = str(self.path / "htpasswd")
            config["auth"] = {"htpasswd": {"realm": "tests", "path": place}}
        return config

    def _answers(self) -> bool:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            connection = http.client.HTTPConnection(self.host, timeout=5)
            try:
                connection.request("GET", "/v2/")
                if connection.getresponse().status in (200, 401):
                    return True
            except OSError:
                time.sleep(0.02)
            finally:
                connection.close()
        return False

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def base64_pair() -> str:
    return base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


def why_no_registry() -> str | None:
    """Return why this machine has no registry; None when it has one."""
    return None if shutil.which("docker-registry") else "no docker-registry here"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
