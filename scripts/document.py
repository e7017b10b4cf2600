"""Write the parts of the documents that are the program's own words.

``python scripts/document.py`` rewrites them; ``tests/unit/test_documents.py`` says when
that was forgotten. A part stands between ``<!-- NAME -->`` and ``<!-- end -->``.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.core import errors
from agent.core.errors import AgentError, BundleError
from agent.core.outcome import CheckExit, ExitCode, InstallExit, RunExit
from scripts import manpages

ROOT = Path(__file__).parents[1]
AGENT = ROOT / "agent"
BOUND = re.compile(r"([A-Z0-9]+_)*(LIMIT|TIMEOUT|DEADLINE)(_S|_BYTES)?|([A-Z0-9]+_)+S")


def exit_table(exits: type[ExitCode]) -> str:
    """Return a command's exit statuses as a table."""
    rows = [f"| {int(code)} | {code.meaning} | `{code.next_step}` |" for code in list(exits)]
    return "\n".join(["| status | meaning | next |", "|---|---|---|", *rows])


def failure_table() -> str:
    """Return every failure with its reason word, exit status and who is to blame."""
    rows = [
        f"| `{leaf.reason}` | {int(leaf.exit)} | "
        f"{'the stick' if issubclass(leaf, BundleError) else 'the device'} | {_first_line(leaf)} |"
        for leaf in _leaves(AgentError)
        if leaf.__module__ == errors.__name__
    ]
    return "\n".join(["| reason | exit | at fault | when |", "|---|---|---|---|", *rows])


def bounds_table() -> str:
    """Return every bound and timeout of the package with the reason written beside it."""
    rows = [
        f"| `{path.relative_to(AGENT)}` | `{name}` | `{value}` | {why} |"
        for path in sorted(AGENT.rglob("*.py"))
        for name, value, why in _bounds(path.read_text())
    ]
    return "\n".join(["| module | bound | value | why |", "|---|---|---|---|", *rows])


PARTS: tuple[tuple[str, str, Callable[[], str]], ...] = (
    ("README.md", "install", lambda: exit_table(InstallExit)),
    ("README.md", "run", lambda: exit_table(RunExit)),
    ("README.md", "check", lambda: exit_table(CheckExit)),
    ("docs/reasons.md", "failures", failure_table),
    ("agent/README.md", "bounds", bounds_table),
)


MAN_PAGES = {f"docs/man/{program}.1": program for program in manpages.SUMMARIES}


def documents() -> tuple[str, ...]:
    """Return every document that is made, or has a part that is."""
    return (*dict.fromkeys(file for file, _, _ in PARTS), *MAN_PAGES)


def written(name: str) -> str:
    """Return what the document ``name`` has to say, its parts made anew."""
    if name in MAN_PAGES:
        return manpages.page(MAN_PAGES[name])
    text = (ROOT / name).read_text()
    for file, part, make in PARTS:
        if file == name:
            head, _, rest = text.partition(f"<!-- {part} -->\n")
            tail = rest.partition("<!-- end -->")[2]
            text = f"{head}<!-- {part} -->\n{make()}\n<!-- end -->{tail}"
    return text


def main() -> None:
    """Rewrite every such document."""
    for name in documents():
        (ROOT / name).write_text(written(name))


def _bounds(source: str) -> Iterator[tuple[str, str, str]]:
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if BOUND.fullmatch(name) and not isinstance(node.value, ast.Dict | ast.Tuple):
                yield name, ast.unparse(node.value), lines[node.lineno - 1].partition("# ")[2]


def _leaves(base: type[AgentError]) -> list[type[AgentError]]:
    return [leaf for child in base.__subclasses__() for leaf in _leaves(child)] or [base]


def _first_line(leaf: type[AgentError]) -> str:
    return (leaf.__doc__ or "").partition("\n")[0]


if __name__ == "__main__":
    main()
