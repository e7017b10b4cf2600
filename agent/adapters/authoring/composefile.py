"""A compose file made ready for devices: images pinned, builds dropped, services labelled.

The file is edited as a tree of YAML nodes, so that every scalar keeps the spelling its
author gave it: what one YAML version reads as a number and another as text stays what it was.
"""

import copy
import hashlib
import re
from collections.abc import Callable, Iterator

import yaml

from agent.core import appfiles
from agent.core.appfiles import AppSource, demand_content
from agent.core.authoring import AuthoringError

COMPOSE_NAME = appfiles.COMPOSE_NAME
COMPOSE_LIMIT_BYTES = 1024 * 1024  # the reference's limit
LOOKALIKE = re.compile(r"[^/]*compose[^/]*\.ya?ml")
HASH_LABEL = "io.compose-spec.config-hash"
MERGE = "<<"


def pin_compose(text: bytes, pin: Callable[[str], str], what: str) -> bytes:
    """Return a compose file for devices.

    Args:
        text: the author's compose file.
        pin: turns an image reference into the pinned one.
        what: its name, for messages.

    Raises:
        AuthoringError: it is no compose file, or a service names no image.
    """
    document = _compose(text, what)
    services = _entries(_member(document, "services", what), f"'services' in {what}")
    for name, service in services:
        where = f"service {name!r} in {what}"
        _pin_image(service, pin, where)
        _drop(service, "build")
        _label(service, where)
    _unfold(document, set())
    return yaml.serialize(document, Dumper=yaml.SafeDumper, width=10**6).encode()


def _unfold(node: yaml.Node, seen: set[int]) -> None:
    """Write collections on lines of their own: inside brackets ``22:22`` would need quotes."""
    if not isinstance(node, yaml.CollectionNode) or id(node) in seen:
        return
    seen.add(id(node))
    if node.value:
        node.flow_style = False
    for child in node.value:
        for part in child if isinstance(child, tuple) else (child,):
            _unfold(part, seen)


def _compose(text: bytes, what: str) -> yaml.MappingNode:
    if len(text) > COMPOSE_LIMIT_BYTES:
        raise AuthoringError(f"{what} has {len(text)} bytes, more than {COMPOSE_LIMIT_BYTES}")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as e:
        raise AuthoringError(f"{what} is not YAML: {e}") from e
    if not isinstance(node, yaml.MappingNode):
        raise AuthoringError(f"{what} is not a compose file: expected a mapping with 'services'")
    return node


def _member(node: yaml.MappingNode, key: str, what: str) -> yaml.MappingNode:
    value = _own(node, key)
    if not isinstance(value, yaml.MappingNode):
        raise AuthoringError(f"{what} has no mapping '{key}'")
    return value


def _entries(node: yaml.MappingNode, what: str) -> list[tuple[str, yaml.MappingNode]]:
    if not node.value:
        raise AuthoringError(f"{what} is empty")
    found = []
    for key, value in node.value:
        if not isinstance(value, yaml.MappingNode):
            raise AuthoringError(f"{key.value!r} of {what} is not a mapping")
        found.append((str(key.value), value))
    return found


def _pin_image(service: yaml.MappingNode, pin: Callable[[str], str], where: str) -> None:
    image = _look_up(service, "image")
    if not isinstance(image, yaml.ScalarNode) or not image.value:
        raise AuthoringError(
            f"{where} names no image",
            hint="build it first and name the result with 'image:'",
        )
    _put(service, "image", _text(pin(image.value)))


def _label(service: yaml.MappingNode, where: str) -> None:
    """Add the hash by which a device recognizes containers of this very configuration."""
    digest = hashlib.sha256(yaml.serialize(service, Dumper=yaml.SafeDumper).encode()).hexdigest()
    # A copy: services may share their labels by a YAML alias, but never the hash.
    labels = copy.deepcopy(_look_up(service, "labels"))
    match labels:
        case None:
            labels = yaml.MappingNode("tag:yaml.org,2002:map", [])
            _put(labels, HASH_LABEL, _text(digest))
        case yaml.MappingNode():
            _put(labels, HASH_LABEL, _text(digest))
        case yaml.SequenceNode():
            labels.value.append(_text(f"{HASH_LABEL}={digest}"))
        case _:
            raise AuthoringError(f"'labels' of {where} is neither a mapping nor a list")
    _put(service, "labels", labels)


def _own(node: yaml.MappingNode, key: str) -> yaml.Node | None:
    return next((v for k, v in node.value if k.value == key), None)


def _look_up(node: yaml.MappingNode, key: str) -> yaml.Node | None:
    """Find a member, also one merged in with ``<<``."""
    if (own := _own(node, key)) is not None:
        return own
    return next((v for base in _bases(node) if (v := _look_up(base, key)) is not None), None)


def _bases(node: yaml.MappingNode) -> Iterator[yaml.MappingNode]:
    merged = _own(node, MERGE)
    candidates = merged.value if isinstance(merged, yaml.SequenceNode) else [merged]
    yield from (base for base in candidates if isinstance(base, yaml.MappingNode))


def _put(node: yaml.MappingNode, key: str, value: yaml.Node) -> None:
    for position, (name, _) in enumerate(node.value):
        if name.value == key:
            node.value[position] = (name, value)
            return
    node.value.append((_text(key), value))


def _drop(node: yaml.MappingNode, key: str) -> None:
    node.value[:] = [(name, value) for name, value in node.value if name.value != key]


def _text(value: str) -> yaml.ScalarNode:
    # Quoted: no reader can take a digest or a label for anything but text.
    return yaml.ScalarNode("tag:yaml.org,2002:str", value, style='"')


def read_compose(source: AppSource) -> bytes:
    """Read the author's compose file.

    Raises:
        AuthoringError: there is none, or it is called otherwise.
    """
    data = source.read(COMPOSE_NAME, COMPOSE_LIMIT_BYTES)
    if data is None:
        others = sorted(f.name for f in source.files() if LOOKALIKE.fullmatch(f.name))
        raise AuthoringError(
            f"{source.where} has no '{COMPOSE_NAME}'"
            + (f"; found {', '.join(others)}" if others else ""),
            hint=f"devices look for '{COMPOSE_NAME}' by this very name",
        )
    demand_content(data, len(data), f"'{COMPOSE_NAME}' in {source.where}")
    return data
