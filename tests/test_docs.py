"""The tutorial and the guides run as they stand, and the API reference has every public name."""

import re
from pathlib import Path

import pytest
from test_package import PUBLIC

DOCS = Path(__file__).parent.parent / "docs"
PAGES = [DOCS / "index.md", DOCS / "tutorial.md", *sorted((DOCS / "guides").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)  # where pictures go
    text = page.read_text(encoding="utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert blocks
    names = {}
    for block in blocks:
        above = text.count("\n", 0, block.start(1))  # so that a traceback has the page's lines
        exec(compile("\n" * above + block[1], page, "exec"), names)


def test_the_reference_has_every_public_name():
    listed, module = set(), ""
    for line in (DOCS / "api.rst").read_text(encoding="utf-8").splitlines():
        if line.startswith(".. currentmodule:: "):
            module = line.split()[-1]
        elif re.fullmatch(r" {3}\w+", line):
            listed.add(f"{module}.{line.strip()}")
    modules = {f"pybptt.{name}" for name in ("data", "onnx", "optim", "recurrence", "reference")}
    assert listed - {f"pybptt.reference.{name}" for name in ("Array", "Parameters")} == set(PUBLIC) - modules
