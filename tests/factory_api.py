"""A factory's server for tests, on this machine: the part of its API that bundles need.

Written from the same facts as the client: real keys, real metadata, real archives. It signs
with the keys of a `Workshop`, so that the workshop's roots judge what it says.
"""

import io
import json
import re
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from agent.adapters import keyfiles
from agent.core import authoring
from agent.core.authoring import BundleFacts, NewTarget
from agent.core.bundletype import BundleType
from agent.core.target import AppRef
from tests.authoring_desk import Workshop
from tests.loopback import NOT_FOUND, Ask, Said

FACTORY = "acme"
TOKEN = "token-5d1c9a"
TAG = "main"
WAVE = "spring"
HARDWARE = "rpi"


@dataclass
class FactoryApi:
    """What the server knows; give `answer` to a `Loopback`.

    Attributes:
        shop: whose keys sign.
        entries: Targets by name, as ``targets.json`` has them.
        artifacts: path to bytes.
        first_root: the lowest version of a root that is shown.
        change: what is done to the metadata before it is sent.
    """

    shop: Workshop
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    first_root: int = 1
    change: Callable[[dict[str, bytes]], dict[str, bytes]] = dict
    issued: int = 100

    # --- what a factory has ----------------------------------------------------------

    def add_target(
        self, version: int = 42, *, apps: Sequence[AppRef] = (), **custom: object
    ) -> str:
        """Build a Target: its commit, its archive of the rootfs; returns its name."""
        commit = self.shop.commit(str(version))
        name = f"{HARDWARE}-lmp-{version}"
        target = NewTarget(
            name, version, commit, HARDWARE, TAG, self.shop.now, tuple(apps), "amd64"
        )
        entry = authoring.target_entry(target)
        entry["custom"] |= custom
        self.entries[name] = entry
        build = str(custom.get("origUri", version)).rpartition("/")[2]
        self.artifacts[rootfs_path(build)] = rootfs_archive(self.shop.repo)
        return name

    def add_apps(self, store: Path, url: str, name: str) -> None:
        """Keep an App store where the Target says that it is."""
        self.artifacts[f"/apps/{name}.tar"] = apps_archive(store)
        self.entries[name]["custom"]["fetched-apps"] = {"uri": f"{url}/apps/{name}.tar"}

    # --- what it answers -------------------------------------------------------------

    def answer(self, ask: Ask) -> Said:
        parts = urlsplit(ask.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path in self.artifacts:
            return Said(self.artifacts[parts.path], headers={"ETag": '"one"'})
        if ask.headers.get("OSF-TOKEN") != TOKEN:
            return Said(b'{"message":"Authentication required"}', 401)
        if not parts.path.startswith(
            (f"/ota/factories/{FACTORY}/", f"/ota/repo/{FACTORY}/", "/projects/")
        ):
            return NOT_FOUND
        return self._route(ask, parts.path, query)

    def _route(self, ask: Ask, path: str, query: Mapping[str, str]) -> Said:
        routes: tuple[tuple[str, Callable[[str], Said]], ...] = (
            (r"/user_repo/(targets)\.json$", lambda _: self._ci(query)),
            (r"/(prod)-targets/$", lambda _: self._listed(query, "tag", TAG)),
            (r"/(wave)-targets/$", lambda _: self._listed(query, "name", WAVE)),
            (r"/user_repo/(\d+)\.root\.json$", lambda found: self._root(int(found), query)),
            (r"/targets/([^/]+)/meta/$", lambda name: self._metadata(name, json.loads(ask.body))),
            (r"/targets/([^/]+)$", lambda name: _json(self.entries[name])),
        )
        for pattern, answer in routes:
            if found := re.search(pattern, path):
                return answer(unquote(found[1]))
        return NOT_FOUND

    def _ci(self, query: Mapping[str, str]) -> Said:
        if query.get("tag") != TAG:
            return NOT_FOUND
        return Said(self._targets(BundleType.CI))

    def _listed(self, query: Mapping[str, str], name: str, value: str) -> Said:
        if query.get(name) != value:
            return NOT_FOUND
        return _json({value: json.loads(self._targets(BundleType.PROD))})

    def _root(self, version: int, query: Mapping[str, str]) -> Said:
        kind = BundleType.PROD if query.get("production") == "1" else BundleType.CI
        roots = self.shop.desk().keys(self.shop.keys).roots(kind)
        name = f"{version}.root.json"
        shown = name in roots and version >= self.first_root
        return Said(roots[name]) if shown else NOT_FOUND

    def _targets(self, kind: BundleType) -> bytes:
        keys = [self.shop.desk().keys(self.shop.keys).online().targets]
        if kind is BundleType.PROD:
            keys += keyfiles.read_archive(self.shop.offline_key)
        expires = self.shop.now + timedelta(days=365)
        return authoring.sign(authoring.issue_targets(self.entries, self.issued, expires), keys)

    def _metadata(self, name: str, asked: Mapping[str, Any]) -> Said:
        kind = BundleType.PROD if asked["production"] or asked["wave"] else BundleType.CI
        try:
            expires = authoring.expiry(
                self.shop.now,
                asked["expires-in-days"],
                root=authoring.read_root(self._newest(kind), "root").expires,
                targets=self.shop.now + timedelta(days=365),
                refresh="",
            )
        except authoring.AuthoringError as e:
            return _json({"message": e.message}, 400)
        self.issued += 1
        claim = asked.get("bundle-targets", {}).get("signed", {}).get("x-fio-offline-bundle", {})
        names = tuple(dict.fromkeys([*claim.get("targets", ()), name]))
        facts = BundleFacts(kind, asked["tag"] or TAG, names, expires, self.issued)
        online = self.shop.desk().keys(self.shop.keys).online()
        made = authoring.issue(self._targets(kind), facts, online, version=self.issued, final=True)
        sent = self.change(made)
        return _json({file.removesuffix(".json"): json.loads(sent[file]) for file in sent})

    def _newest(self, kind: BundleType) -> bytes:
        roots = self.shop.desk().keys(self.shop.keys).roots(kind)
        return roots[max(roots, key=lambda name: int(name.partition(".")[0]))]


def rootfs_path(build: str) -> str:
    return (
        f"/projects/{FACTORY}/lmp/builds/{build}/runs/{HARDWARE}"
        f"/other/{HARDWARE}-ostree_repo.tar.bz2"
    )


def rootfs_archive(repo: Path) -> bytes:
    return _tar({"ostree_repo": repo}, "w:bz2")


def apps_archive(store: Path) -> bytes:
    return _tar({"apps": store / "apps", "blobs": store / "blobs"}, "w")


def _tar(directories: Mapping[str, Path], mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, path in directories.items():
            tar.add(path, name)
    return buffer.getvalue()


def _json(value: object, status: int = 200) -> Said:
    return Said(json.dumps(value).encode(), status, {"Content-Type": "application/json"})
