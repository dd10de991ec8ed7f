"""docs/numbers.md: every number on it is computed, by PyTorch's autograd or in whole numbers."""

import doctest
import math
import re
from pathlib import Path

import pytest

from pybptt import recurrence

TEXT = (Path(__file__).parent.parent / "docs" / "numbers.md").read_text(encoding="utf-8")
W, S_0, STEPS = 2, 1, 4
S_4, DERIVATIVE = 1092984520681, 12926834988414


def section(title):
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def tables(text):
    """The cells of each table, without its head."""
    found = re.findall(r"^\|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [
        [[cell.strip() for cell in line[1:-1].split("|")] for line in body.splitlines()] for body in found
    ]


def printed(value, digits=6):
    return f"{value + 0.0:.{digits}f}".replace("-", "−")  # no negative zero


def value_of(cell):
    """What a cell with numbers comes to."""
    for sign, code in (("×", "*"), ("−", "-"), ("²", "**2")):
        cell = cell.replace(sign, code)
    return eval(cell, {"σ": lambda z: 1 / (1 + math.exp(-z)), "tanh": math.tanh})


def by_autograd(torch, phi):
    """Each row of the page's tables; each use of a weight is a leaf of its own."""
    leaf = {
        name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for name, value in {"u1": 0.5, "u2": 0.5, "w1": 0.8, "w2": 0.8, "k": 1.5, "h0": 0.0}.items()
    }
    z1 = leaf["u1"] * 1.0 + leaf["w1"] * leaf["h0"]
    h1 = getattr(torch, phi)(z1)
    z2 = leaf["u2"] * -0.5 + leaf["w2"] * h1
    h2 = getattr(torch, phi)(z2)
    o = leaf["k"] * h2
    L = (o - 1.0) ** 2
    name = "\\tanh" if phi == "tanh" else "\\sigma"
    slopes = {t: torch.autograd.grad(h, z, retain_graph=True)[0] for t, h, z in ((1, h1, z1), (2, h2, z2))}
    for value in (z1, h1, z2, h2, o):
        value.retain_grad()
    L.backward()
    d = {name: value.grad for name, value in leaf.items()}
    rows = {"z_1": z1, "h_1": h1, "z_2": z2, "h_2": h2, "o": o, "L": L, "do": o.grad, "dk": d["k"]}
    rows |= {"dh_2": h2.grad, f"{name}'(z_2)": slopes[2], "dz_2": z2.grad, "dh_1": h1.grad}
    rows |= {f"{name}'(z_1)": slopes[1], "dz_1": z1.grad, "dh_0": d["h0"]}
    rows = {f"${name}$": value.item() for name, value in rows.items()}
    for weight in "uw":
        uses = [d[f"{weight}{t}"].item() for t in (1, 2)]
        rows |= {f"$d{weight}$ at step {t}": use for t, use in enumerate(uses, 1)}
        rows[f"$d{weight}$"] = sum(uses)
    return rows


@pytest.mark.parametrize(("title", "phi"), [("Two steps by hand", "sigmoid"), ("The same with tanh", "tanh")])
def test_worked_by_hand(torch, title, phi):
    text, truth = section(title), by_autograd(torch, phi)
    rows = [row for table in tables(text) for row in table]
    assert [row[0] for row in rows] == list(truth)
    above = set()  # values of the rows above: a number with as many digits is one of them
    for name, _, numbers, value in rows:
        assert value == printed(truth[name]), name
        assert value_of(numbers) == pytest.approx(truth[name], abs=2e-6), name
        assert set(re.findall(r"\d\.\d{6}", numbers)) <= above | {"0.000000"}, name
        above.add(value.lstrip("−"))
    slope = next(value for name, value in truth.items() if name.endswith("'(z_2)$"))
    assert f"0.8 \\times {slope:.6f} = {0.8 * slope:.6f}" in text


def test_finite_differences_of_the_weights(torch):
    def loss(u=0.5, w=0.8, k=1.5):
        def sigma(z):
            return 1 / (1 + math.exp(-z))

        return (k * sigma(u * -0.5 + w * sigma(u * 1.0)) - 1.0) ** 2

    truth = by_autograd(torch, "sigmoid")
    (rows,) = tables(section("Check it"))
    assert [row[0] for row in rows] == ["$u$", "$w$", "$k$"]
    for (name, above, below, difference), at in zip(rows, (0.5, 0.8, 1.5), strict=True):
        weight = name.strip("$")
        values = [loss(**{weight: at + step}) for step in (0.001, -0.001)]
        assert [above, below] == [printed(value, 9) for value in values]
        assert difference == printed((values[0] - values[1]) / 0.002) == printed(truth[f"$d{weight}$"])


def test_code_prints_what_the_page_says():
    code = re.sub(r"^```.*$", "", TEXT, flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(code, {}, "numbers.md", "docs/numbers.md", 0)
    assert len(test.examples) > 10
    assert doctest.DocTestRunner().run(test).failed == 0


def test_recurrence_in_four_ways():
    def f(w, s):
        return (1 + w * s) ** 2

    steps, uses, forward, back, differences = tables(section("A derivative that is a whole number"))
    states = recurrence.unroll(f, W, S_0, STEPS)
    df_dw = [2 * (1 + W * s) * s for s in states[:-1]]
    df_ds = [2 * (1 + W * s) * W for s in states[:-1]]
    expected = [[t + 1, states[t], states[t + 1], df_dw[t], df_ds[t]] for t in range(STEPS)]
    assert [[int(cell) for cell in row] for row in steps] == expected

    d_s = [math.prod(df_ds[t + 1 :]) for t in range(STEPS)]  # dS_4/dS_t
    total = 0
    for t, (step, by_w, later, together) in enumerate(uses[:-1]):
        assert (int(step), int(by_w), value_of(later)) == (t + 1, df_dw[t], d_s[t])
        assert int(together) == df_dw[t] * d_s[t]
        total += int(together)
    assert total == int(uses[-1][-1]) == DERIVATIVE

    carried = 0
    for t, (step, numbers, derivative) in enumerate(forward):
        assert numbers == f"{df_dw[t]} + {df_ds[t]} × {carried}"
        carried = value_of(numbers)
        assert (int(step), int(derivative)) == (t + 1, carried)
    assert carried == DERIVATIVE

    total = 0
    for t, (step, by_state, adds, so_far) in zip(reversed(range(STEPS)), back, strict=True):
        assert (int(step), int(by_state)) == (t + 1, d_s[t])
        assert adds == f"{d_s[t]} × {df_dw[t]}"
        total += value_of(adds)
        assert int(so_far) == total
    assert total == DERIVATIVE

    for epsilon, error in differences:
        above, below = (
            recurrence.unroll(f, W + e, 1.0, STEPS)[-1] for e in (float(epsilon), -float(epsilon))
        )
        difference = (above - below) / (2 * float(epsilon))
        assert float(error) == float(f"{abs(difference / DERIVATIVE - 1):.0e}")


def test_float32(torch):
    text = section("What float32 makes of it")
    w = torch.tensor(2.0, requires_grad=True)
    s = torch.tensor(1.0)
    for _ in range(STEPS):
        s = (1 + w * s) ** 2
    s.backward()
    assert s.dtype == torch.float32
    assert f"$S_4$ is {int(s)} and the derivative {int(w.grad)}" in text
    assert text.count(str(int(w.grad))) == 2
    assert f"too large by {int(w.grad) - DERIVATIVE}," in text
    assert int(torch.tensor(DERIVATIVE, dtype=torch.float64).float()) == int(w.grad)  # the nearest
    assert int(torch.nextafter(w.grad, torch.tensor(math.inf)) - w.grad) == 1048576
    assert "numbers of this size lie 1048576 apart" in text
