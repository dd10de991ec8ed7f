"""docs/books.md shows what examples/closed_forms.py prints."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_page_shows_what_the_example_prints(capsys):
    runpy.run_path(str(ROOT / "examples" / "closed_forms.py"), run_name="__main__")
    page = (ROOT / "docs" / "books.md").read_text(encoding="utf-8")
    printed = capsys.readouterr().out.strip().split("\n\n")
    assert len(printed) == 3
    for block in printed:
        assert f"```text\n{block}\n```" in page
        assert "False" not in block
