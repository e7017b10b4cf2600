"""Where a Target's Apps come from: directories, and the git repositories of a factory.

In: a `Desk` and what was asked. Out: `Sources`, everything a Target takes from git:
Apps at one commit, that commit, and which of them its bundle carries. Nothing is copied or
packed here; whoever makes a Target (`services.author` for a bundle) packs ``apps`` and
carries what ``fetch`` says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.core.appfiles import COMPOSE_LIMIT_BYTES, COMPOSE_NAME, AppSource
from agent.core.authoring import AuthoringError
from agent.core.factoryconfig import (
    ALL_APPS,
    COMPOSE_FILES,
    CONFIG_NAME,
    FetchApps,
    compose_files,
    fetch_apps,
)
from agent.core.factoryimages import FactoryImages, build_tag
from agent.log import get_logger
from agent.services.desk import Desk, Revision

log = get_logger()

CONFIG_LIMIT_BYTES = 256 * 1024  # the largest known has 4 kB
BRANCH = "refs/heads/"
PRE_BUILD = "pre-build.conf"
PRE_BUILD_HINT = (
    "the factory's CI runs it before it builds; if it changes compose files or COMPOSE_FILES, run "
    "it in a checkout and name the Apps with --app instead"
)


@dataclass(frozen=True, slots=True)
class GitSpec:
    """Which git repositories a Target is made from.

    Attributes:
        containers: ``PATH[@REF]`` of ``containers.git``; empty takes no Apps from git.
        factory_config: ``PATH[@REF]`` of ``ci-scripts.git``; empty carries every App.
        branch: whose ``ref_options`` count; empty takes the one ``containers`` names.
        image_tag: of the factory's own images; empty is ``<version>_<commit>``.
        submodules: ``NAME=PATH``, clones of submodules of ``containers``.
    """

    containers: str = ""
    factory_config: str = ""
    branch: str = ""
    image_tag: str = ""
    submodules: tuple[str, ...] = ()


NO_GIT = GitSpec()


@dataclass(frozen=True, slots=True)
class Sources:
    """What a Target is made from.

    Attributes:
        apps: all its Apps, in the order they were named.
        containers_sha: commit of ``containers.git``, 40 hex digits; empty without.
        fetch: which of them a bundle carries.
    """

    apps: tuple[Path | AppSource, ...] = ()
    containers_sha: str = ""
    fetch: FetchApps = ALL_APPS


def find_sources(
    desk: Desk, spec: GitSpec, directories: Sequence[Path], *, prefix: str, version: int
) -> Sources:
    """Find the Apps of a Target, and what the factory's configuration says of them.

    Args:
        desk: the author's.
        spec: which repositories.
        directories: Apps beside those of ``containers``, one each.
        prefix: ``<host>/<factory>`` of App URIs and of the factory's own images.
        version: of the Target.

    Raises:
        AuthoringError: a repository, ref, App or value is not as it must be.
    """
    if not spec.containers:
        _demand_containers(spec)
        fetch = fetch_apps(_asked(desk, spec), _full(spec.branch))
        return Sources(tuple(directories), fetch=fetch)
    revision = desk.revision(spec.containers)
    images = FactoryImages(prefix, spec.image_tag or build_tag(version, revision.commit))
    found = revision.apps(spell=images.meant, submodules=_clones(spec.submodules))
    if not found:
        raise AuthoringError(
            f"'{spec.containers}' has no Compose App at {revision.commit[:12]}: no top-level "
            f"directory with '{COMPOSE_NAME}'",
            hint="name the factory's containers.git; --no-apps makes a bundle without Apps",
        )
    log.info("apps.found", commit=revision.commit, apps=[app.name for app in found])
    if revision.holds(PRE_BUILD):
        log.warning("pre_build.not_run", file=PRE_BUILD, hint=PRE_BUILD_HINT)
    asked, branch = _asked(desk, spec), _full(spec.branch) or revision.branch
    for app in found:
        _demand_one_compose_file(app, compose_files(asked, branch))
    return Sources((*found, *directories), revision.commit, fetch_apps(asked, branch))


def _demand_one_compose_file(app: AppSource, names: Sequence[str]) -> None:
    """Refuse what CI would merge with ``docker compose``: leaving a file out changes the App."""
    there = [name for name in names if app.read(name, COMPOSE_LIMIT_BYTES) is not None]
    if there and there != [COMPOSE_NAME]:
        files = " ".join(f"-f {name}" for name in there)
        raise AuthoringError(
            f"{app.where} is to be merged from {', '.join(there)}, as {COMPOSE_FILES} in "
            f"'{CONFIG_NAME}' has it; expected '{COMPOSE_NAME}' alone",
            hint=f"in a copy of its directory: 'docker compose {files} config --no-interpolate "
            f"-o {COMPOSE_NAME}'; commit that, or name the copy with --app in place of it",
        )


def _demand_containers(spec: GitSpec) -> None:
    for option, value in (("--image-tag", spec.image_tag), ("--submodule", spec.submodules)):
        if value:
            raise AuthoringError(f"{option} is of use with --containers-git only")


def _clones(texts: Sequence[str]) -> Mapping[str, Path]:
    clones = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not (name.strip("/") and equals and path):
            raise AuthoringError(
                f"submodule {text!r} is not NAME=PATH", hint="e.g. vendor=../vendor.git"
            )
        clones[name.strip("/")] = Path(path)
    return clones


def _asked(desk: Desk, spec: GitSpec) -> object:
    """Return the values of the factory's configuration; without one, none."""
    return _document(desk.revision(spec.factory_config), spec) if spec.factory_config else {}


def _full(branch: str) -> str:
    return branch if not branch or branch.startswith("refs/") else BRANCH + branch


def _document(config: Revision, spec: GitSpec) -> object:
    document = config.document(CONFIG_NAME, CONFIG_LIMIT_BYTES)
    if document is None:
        raise AuthoringError(
            f"'{spec.factory_config}' has no '{CONFIG_NAME}' at {config.commit[:12]}, or an "
            "empty one",
            hint="name the factory's ci-scripts.git",
        )
    return document
