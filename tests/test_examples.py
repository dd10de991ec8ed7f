"""Every example runs, and shows what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name, *arguments):
    result = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    return result.stdout


def number(pattern, text):
    found = re.search(pattern, text)
    assert found, text
    return float(found[1])


def test_none_is_forgotten():
    tested = {
        "adding_problem.py",
        "closed_forms.py",  # in test_books_page.py
        "influence_balancing.py",  # in test_books_page.py
        "minimise_with_scipy.py",
        "mpi.py",  # in test_mpi.py
        "numpy_training_loop.py",
        "ragged_sequences.py",
        "random_truncation.py",
        "reverse_mode.py",  # in test_autodiff_page.py
        "sunspots.py",
        "torch_distributed.py",  # in test_distributed.py
        "truncation_regularises.py",
        "truncation_styles.py",
        "vanishing_gradients.py",
    }
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


def test_adding_problem():
    output = run("adding_problem.py", "--quick")
    chance = number(r"saying 1 has ([\d.]+)", output)
    assert number(r"lstm on 1000 fresh sequences of 60 steps: ([\d.]+)", output) < 0.2 * chance
    assert number(r"plain on 1000 fresh sequences of 60 steps: ([\d.]+)", output) > 0.5 * chance


def test_minimise_with_scipy():
    pytest.importorskip("scipy", reason="the example is about SciPy")
    output = run("minimise_with_scipy.py")
    fresh = number(r"([\d.]+) on fresh sequences", output)
    assert fresh < 0.01 * number(r"saying 0 has ([\d.]+)", output)


def test_numpy_training_loop():
    output = run("numpy_training_loop.py")
    fresh = number(r"fresh sequences of 50 steps: ([\d.]+)", output)
    assert fresh < 0.2 * number(r"saying 1 has ([\d.]+)", output)


def test_ragged_sequences():
    assert number(r"right for ([\d.]+) of 2000", run("ragged_sequences.py", "--steps", 1000)) > 0.9


def test_random_truncation(tmp_path):
    """Too short for more than the order of things: a longer window is less off, whichever way."""
    pytest.importorskip("matplotlib", reason="it draws")
    options = ("--seconds", 0.3, "--draws", 20, "--runs", 1, "--plot", tmp_path / "errors.png")
    output = run("random_truncation.py", *options)
    rows = re.findall(r"^ *(\d+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +[\d.]+$", output, re.MULTILINE)
    first, last = ([float(number) for number in row[1:]] for row in (rows[0], rows[-1]))
    assert all(b < 0.5 * a for a, b in zip(first, last, strict=True))
    assert (
        len(re.findall(r"^(?:blocks|random blocks|long blocks) +\d+ +[\d.]+ +[\d.]+$", output, re.MULTILINE))
        == 3
    )
    assert (tmp_path / "errors.png").read_bytes().startswith(b"\x89PNG")


def test_sunspots(tmp_path):
    pytest.importorskip("statsmodels", reason="it brings the series")
    pytest.importorskip("matplotlib", reason="it draws")
    output = run("sunspots.py", "--steps", 250, "--plot", tmp_path / "forecasts.png")
    gru = number(r"mean of 5 GRUs +([\d.]+)", output)
    assert gru < 0.75 * number(r"persistence +([\d.]+)", output)
    assert gru < 1.25 * number(r"autoregression\(9\) +([\d.]+)", output)
    assert (tmp_path / "forecasts.png").read_bytes().startswith(b"\x89PNG")


def test_truncation_regularises():
    output = run("truncation_regularises.py", "--updates", 100, "--runs", 1)
    one, full = (
        re.search(rf"^TBPTT\({k}, {k}\).* ([\d.]+) +([\d.]+)$", output, re.MULTILINE) for k in (1, 200)
    )
    assert float(full[1]) < float(one[1])  # on what it has seen
    assert float(full[2]) > float(one[2])  # on what it has not


def test_truncation_styles(tmp_path):
    """As long as it runs here, it learns little more than which characters are frequent."""
    pytest.importorskip("matplotlib", reason="it draws")
    output = run("truncation_styles.py", "--seconds", 0.3, "--plot", tmp_path / "bits.png")
    rows = re.findall(r"^(.*?) +(\d+) +(\d+) +(\d+) +(\d+) +([\d.]+)$", output, re.MULTILINE)
    assert len(rows) == 6
    for _, k1, _, updates, characters, bits in rows:
        assert 0 < int(characters) <= int(updates) * int(k1) * 32
        assert float(bits) < 6.5  # of 96 characters alike: 6.6
    assert (tmp_path / "bits.png").read_bytes().startswith(b"\x89PNG")


def test_vanishing_gradients(tmp_path):
    pytest.importorskip("matplotlib", reason="it draws")
    output = run("vanishing_gradients.py", "--plot", tmp_path / "norms.png")
    first = {
        match[1]: float(match[2])
        for match in re.finditer(r"^ *(\w+ +[\d.]+) .* (\S+)$", output, re.MULTILINE)
    }
    first = {" ".join(key.split()): value for key, value in first.items()}
    assert first["identity 0.8"] < 1e-8 < 1e8 < first["identity 1.5"]
    assert first["tanh 0.8"] < 1e-8
    assert (tmp_path / "norms.png").read_bytes().startswith(b"\x89PNG")
