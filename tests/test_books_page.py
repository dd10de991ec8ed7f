"""docs/books.md shows what its examples print."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(("example", "blocks"), [("closed_forms.py", 3), ("influence_balancing.py", 1)])
def test_the_page_shows_what_the_example_prints(example, blocks, capsys):
    runpy.run_path(str(ROOT / "examples" / example), run_name="__main__")
    page = (ROOT / "docs" / "books.md").read_text(encoding="utf-8")
    printed = capsys.readouterr().out.strip().split("\n\n")
    assert len(printed) == blocks
    for block in printed:
        assert f"```text\n{block}\n```" in page
        assert "False" not in block
