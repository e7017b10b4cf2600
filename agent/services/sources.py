"""Where a Target's Apps come from: directories, and the git repositories of a factory.

In: a `Desk` and what was asked. Out: `Sources`, everything a Target takes from git:
Apps at one commit, that commit, and which of them its bundle carries. Nothing is copied or
packed here; whoever makes a Target (`services.author` for a bundle) packs ``apps`` and
carries what ``fetch`` says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.core.appfiles import COMPOSE_NAME, AppSource
from agent.core.authoring import AuthoringError
from agent.core.factoryconfig import (
    ALL_APPS,
    CONFIG_NAME,
    FetchApps,
    branch_tags,
    compose_files,
    fetch_apps,
)
from agent.core.factoryimages import FactoryImages, build_tag
from agent.core.prebuild import DEFAULT, PRE_BUILD, assigned_compose_files
from agent.log import get_logger
from agent.services.desk import Desk, Revision

log = get_logger()

CONFIG_LIMIT_BYTES = 256 * 1024  # the largest known has 4 kB
SCRIPT_LIMIT_BYTES = 1024 * 1024
BRANCH = "refs/heads/"


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
        tags: what CI gives the branch; empty when that is not known.
    """

    apps: tuple[Path | AppSource, ...] = ()
    containers_sha: str = ""
    fetch: FetchApps = ALL_APPS
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Config:
    """What a factory's configuration says of one branch.

    Attributes:
        fetch: which Apps a bundle carries.
        tags: of what is built; empty when it does not say.
        compose_files: those CI merges; empty when it does not say.
    """

    fetch: FetchApps = ALL_APPS
    tags: tuple[str, ...] = ()
    compose_files: tuple[str, ...] = ()


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
    if spec.branch and not spec.factory_config:
        raise AuthoringError("--branch is of use with --factory-config only")
    if not spec.containers:
        _demand_containers(spec)
        config = _config(desk, spec, "")
        return Sources(tuple(directories), fetch=config.fetch, tags=config.tags)
    revision = desk.revision(spec.containers)
    config = _config(desk, spec, revision.branch)
    images = FactoryImages(prefix, spec.image_tag or build_tag(version, revision.commit))
    script = revision.read(PRE_BUILD, SCRIPT_LIMIT_BYTES)
    found = revision.apps(
        spell=images.meant,
        submodules=_clones(spec.submodules),
        compose_files=_compose_files(script, config),
    )
    if not found:
        raise AuthoringError(
            f"'{spec.containers}' has no Compose App at {revision.commit[:12]}: no top-level "
            f"directory with '{COMPOSE_NAME}'",
            hint="name the factory's containers.git; --no-apps makes a bundle without Apps",
        )
    log.info("apps.found", commit=revision.commit, apps=[app.name for app in found])
    if script is not None:
        _warn_of_script(desk, spec, [app.name for app in found])
    return Sources((*found, *directories), revision.commit, config.fetch, config.tags)


def _compose_files(script: bytes | None, config: _Config) -> tuple[str, ...]:
    """Return the compose files CI looks for in each App: the script has the last word."""
    assigned = None if script is None else assigned_compose_files(script)
    return (config.compose_files if assigned is None else assigned) or DEFAULT


def _warn_of_script(desk: Desk, spec: GitSpec, apps: Sequence[str]) -> None:
    desk.warn(
        f"'{PRE_BUILD}' in '{spec.containers}' was not run: a factory's CI runs it before it "
        f"builds and publishes, and what it changes of {', '.join(apps)} is missing here",
        "when it only helps to build images, nothing is missing; else run it in a checkout, commit "
        "what it made on a branch of its own, and name that branch",
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


def _config(desk: Desk, spec: GitSpec, branch: str) -> _Config:
    if not spec.factory_config:
        return _Config()
    document = _document(desk.revision(spec.factory_config), spec)
    branch = _full(spec.branch) or branch
    merged = compose_files(document, branch) if spec.containers else ()
    return _Config(fetch_apps(document, branch), branch_tags(document, branch), merged)


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
