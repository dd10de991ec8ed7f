"""docs/bptt.md and the two pages after it keep to the code that they quote, figures to what they show.

Of these and other pages links lead somewhere. docs/numbers.md has a test of its own.
"""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

import pybptt

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [DOCS / f"{name}.md" for name in ("bptt", "cells", "truncation")]
PORTING = DOCS / "porting.md"
QUOTE = re.compile(r"^- \[`([^`]+)`\]\(\.\./([^)]+)\): `([^`]+)`$", re.MULTILINE)


@pytest.fixture(scope="module")
def drawing():
    pytest.importorskip("matplotlib", reason="it draws")
    spec = importlib.util.spec_from_file_location("figures", DOCS / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def spaced(text):
    """Code with one space wherever there is any: lines may be broken anew."""
    return " ".join(text.split())


def quotes():
    """Each once, wherever it is."""
    return sorted({match.groups() for page in PAGES for match in QUOTE.finditer(page.read_text("utf-8"))})


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_line_with_a_link_to_source_is_a_quote(page):
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("- [`")]
    assert lines
    assert [line for line in lines if not QUOTE.match(line)] == []


@pytest.mark.parametrize(("name", "path", "quoted"), quotes())
def test_quoted_line_is_in_its_file(name, path, quoted):
    assert path.endswith(name)
    text = (ROOT / path).read_text(encoding="utf-8")
    assert re.search(rf"(?<![\w.]){re.escape(spaced(quoted))}(?!\w)", spaced(text)), (
        f"{path} has no {quoted!r}"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_equation_is_followed_by_its_source(page):
    """In the sections that derive what the code computes."""
    text = page.read_text(encoding="utf-8")
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    for section in sections:
        if section.count("```math") and not section.startswith("Words"):
            assert QUOTE.search(section), section.splitlines()[0]


def anchors(page):
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "page", [*sorted(DOCS.rglob("*.md")), ROOT / "README.md"], ids=lambda path: path.name
)
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
    """The definition on docs/truncation.md, boundary by boundary: entry (t - 1, tau - 1)."""
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


def tbptt_styles(drawing):
    return [style for style, _ in drawing.STYLES.values() if isinstance(style, pybptt.TBPTT)]


def test_figure_shows_the_definition(drawing):
    T = drawing.STEPS
    for style in tbptt_styles(drawing):
        np.testing.assert_array_equal(drawing.weights(style, T), defined_reach(T, style.k1, style.k2))


def test_figure_shows_every_style(drawing):
    n, styles = drawing.STEPS, [(style.k1, style.k2) for style in tbptt_styles(drawing)]
    assert {(n, n), (1, n)} < set(styles)
    for is_style in (
        lambda k1, k2: 1 < k1 < k2 < n,
        lambda k1, k2: 1 < k1 == k2 < n,
        lambda k1, k2: 1 < k2 < k1,
        lambda k1, k2: 1 == k2 < k1,
    ):
        assert any(is_style(*k) for k in styles)


def test_figure_shows_random_truncation(drawing):
    """A draw's factors are products of xi; the mean over many draws is nearly 1 everywhere."""
    T, random = drawing.STEPS, [(s, draws) for s, draws in drawing.STYLES.values() if hasattr(s, "pi")]
    assert [draws > 1 for _, draws in random] == [False, False, True]
    for style, draws in random:
        xi = style.factors(T, draws)
        expected = [
            [xi[tau:t].prod(axis=0).mean() if tau <= t else 0.0 for tau in range(1, T + 1)]
            for t in range(1, T + 1)
        ]
        np.testing.assert_allclose(drawing.weights(style, T, draws), expected, rtol=1e-12)
    # The variance of a factor of k steps is pi^-k - 1.
    error = np.sqrt((drawing.PI ** -(T - 1.0) - 1) / draws)
    assert np.abs(np.array(expected)[np.tri(T, dtype=bool)] - 1).max() < 4 * error


@pytest.mark.parametrize("steps", [1, 2, 7, 10])
def test_reach_of_every_truncation_of_short_sequences(drawing, steps):
    """Also where the last window is shorter than the others."""
    for k1 in range(1, steps + 2):
        for k2 in range(1, steps + 2):
            found = drawing.weights(pybptt.TBPTT(k1, k2), steps)
            np.testing.assert_array_equal(found, defined_reach(steps, k1, k2), f"TBPTT({k1}, {k2})")


def written(path):
    """What a figure says, and its size: matplotlib notes each text beside its outlines."""
    svg = path.read_text(encoding="utf-8")
    return re.search(r'viewBox="([^"]+)"', svg)[1], re.findall(r"<!-- (.*?) -->", svg)


def test_figures_are_those_that_the_script_draws(drawing, tmp_path):
    kept = {path.stem for path in drawing.FOLDER.glob("*.svg")}
    assert kept == set(drawing.FIGURES)
    shown = "".join(page.read_text(encoding="utf-8") for page in [DOCS / "numbers.md", *PAGES])
    for name in kept:
        assert f"(figures/{name}.svg)" in shown
        drawn = drawing.save(name, tmp_path)
        assert written(drawn) == written(drawing.FOLDER / drawn.name)


def test_what_truncation_cannot_learn(set_threads):
    """The page's code finds the errors of its table: to a factor, since other processors round otherwise."""
    set_threads(1)  # the network is small
    section = (DOCS / "truncation.md").read_text(encoding="utf-8").split("## What truncation cannot learn")[1]
    names = {}
    exec(re.search(r"```python\n(.*?)```", section, re.DOTALL)[1], names)
    lines = re.findall(r"^\| (.*) \|$", section.split("\n## ")[0], re.MULTILINE)
    head, *rows = (line.split(" | ") for line in lines)
    table = {int(row[0]): dict(zip(head, map(float, row), strict=True)) for row in rows}
    for delay, row in table.items():  # the variance of the input is 1/3
        assert row["nothing"] == pytest.approx((60 - delay) / 60 / 3, abs=0.005)
    for delay, k2, column in (
        (4, 1, "(1, 1)"),
        (8, 1, "(1, 1)"),
        (6, 6, "(1, delay)"),
        (6, 7, "(1, delay + 1)"),
    ):
        found = names["error"](pybptt.TBPTT(1, k2), delay)
        assert 1 / 4 < found / table[delay][column] < 4
    alone = names["error"](pybptt.TBPTT(1, 1), 4, only_output=True)
    assert 1 / 4 < alone / table[4]["output alone"] < 4
