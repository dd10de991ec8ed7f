"""docs/bptt.md keeps to the code that it quotes, its picture to the definition; links lead somewhere."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

import pybptt

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "bptt.md"
PORTING = ROOT / "docs" / "porting.md"
QUOTE = re.compile(r"^- \[`([^`]+)`\]\(\.\./([^)]+)\): `([^`]+)`$", re.MULTILINE)


@pytest.fixture(scope="module")
def drawing():
    spec = importlib.util.spec_from_file_location("draw_truncation", ROOT / "docs" / "draw_truncation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def spaced(text):
    """Code with one space wherever there is any: lines may be broken anew."""
    return " ".join(text.split())


def quotes():
    return [match.groups() for match in QUOTE.finditer(PAGE.read_text(encoding="utf-8"))]


def test_every_line_with_a_link_to_source_is_a_quote():
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("- [`")]
    assert lines
    assert [line for line in lines if not QUOTE.match(line)] == []


@pytest.mark.parametrize(("name", "path", "quoted"), quotes())
def test_quoted_line_is_in_its_file(name, path, quoted):
    assert path.endswith(name)
    text = (ROOT / path).read_text(encoding="utf-8")
    assert re.search(rf"(?<![\w.]){re.escape(spaced(quoted))}(?!\w)", spaced(text)), (
        f"{path} has no {quoted!r}"
    )


def test_every_equation_is_followed_by_its_source():
    """In the sections that derive what the code computes."""
    text = PAGE.read_text(encoding="utf-8")
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    for section in sections:
        if section.count("```math") and not section.startswith("Words"):
            assert QUOTE.search(section), section.splitlines()[0]


def anchors(page):
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [PAGE, PORTING, ROOT / "README.md"], ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            path, _, anchor = target.partition("#")
            there = page.parent / path if path else page
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target


def test_every_vector_file_has_its_step():
    text = PORTING.read_text(encoding="utf-8")
    for path in (ROOT / "vectors").glob("[0-9]*.json"):
        assert f"](../vectors/{path.name})" in text


def defined_reach(T, k1, k2):
    """DESIGN's definition, boundary by boundary: (t, tau) counts from 0."""
    reach = np.zeros((T, T), dtype=bool)
    before = 0
    for boundary in [*range(k1, T, k1), T]:
        uses = [tau for tau in range(boundary, boundary - k2, -1) if tau >= 1]
        for t in range(before + 1, boundary + 1):
            if boundary - t < k2:  # within the last k2 steps
                for tau in uses:
                    if tau <= t:
                        reach[t - 1, tau - 1] = True
        before = boundary
    return reach


def test_picture_shows_the_definition(drawing):
    T = drawing.STEPS
    for k1, k2 in drawing.STYLES:
        np.testing.assert_array_equal(drawing.reach(pybptt.TBPTT(k1, k2), T), defined_reach(T, k1, k2))


def test_picture_shows_every_style(drawing):
    n, styles = drawing.STEPS, drawing.STYLES
    assert {(n, n), (1, n)} < set(styles)
    for is_style in (
        lambda k1, k2: 1 < k1 < k2 < n,
        lambda k1, k2: 1 < k1 == k2 < n,
        lambda k1, k2: 1 < k2 < k1,
        lambda k1, k2: 1 == k2 < k1,
    ):
        assert any(is_style(*k) for k in styles)


@pytest.mark.parametrize("steps", [1, 2, 7, 10])
def test_reach_of_every_truncation_of_short_sequences(drawing, steps):
    """Also where the last window is shorter than the others."""
    for k1 in range(1, steps + 2):
        for k2 in range(1, steps + 2):
            found = drawing.reach(pybptt.TBPTT(k1, k2), steps)
            np.testing.assert_array_equal(found, defined_reach(steps, k1, k2), f"TBPTT({k1}, {k2})")


def test_picture_is_drawn(drawing, tmp_path):
    pytest.importorskip("matplotlib", reason="it draws")
    drawing.draw(tmp_path / "truncation.png")
    drawn, kept = (
        path.read_bytes() for path in (tmp_path / "truncation.png", PAGE.with_name("truncation.png"))
    )
    assert drawn.startswith(b"\x89PNG")
    assert drawn[16:24] == kept[16:24]  # width and height
