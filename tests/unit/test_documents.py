"""The parts of the documents that are the program's own words are up to date."""

import pytest

from scripts import document


@pytest.mark.parametrize("name", document.documents())
def test_the_document_says_what_the_program_says(name: str) -> None:
    """If this fails: python scripts/document.py."""
    assert document.written(name) == (document.ROOT / name).read_text()
