"""The page on hostile sticks names a test for every attack, and each of them is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/attacks.md").read_text()
ROWS = re.findall(r"^\| ([0-9]+) \|.*\| (.*) \|$", PAGE, re.MULTILINE)
NAMED = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", PAGE)


def test_every_attack_is_there_once() -> None:
    assert [str(number) for number in range(1, 18)] == [number for number, _ in ROWS]


@pytest.mark.parametrize(("number", "tests"), ROWS[1:])
def test_an_attack_the_agent_can_answer_is_tried(number: str, tests: str) -> None:
    assert "test_" in tests, number


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_test_that_is_named_exists(file: str, name: str) -> None:
    paths = list((ROOT / "tests").rglob(file))
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text()))]
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}

    assert paths
    assert not name or name in functions
