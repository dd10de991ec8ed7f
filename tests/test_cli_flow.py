"""The command line's `flow`."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from cli_support import SMALL, contents

import pybptt
from pybptt.cli import flow, main
from pybptt.cli.text import UNKNOWN
from pybptt.cli.training import Settings, new_layer

TINY = ["flow", "--hidden", "8", "--steps", "50", "--batch", "3"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the picture goes


def row(title, output):
    """The entries of a table's row."""
    return re.split(r" {3,}", re.search(rf"^ *{re.escape(title)} +(.*)$", output, re.MULTILINE)[1].strip())


def test_gates_help(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="it draws")
    assert main(["flow"]) == 0
    output = capsys.readouterr().out
    assert row("|dL/dh_t| / |dL/dh_T|", output) == ["rnn", "lstm", "gru"]
    assert row("verdict", output) == ["vanishing", "healthy", "healthy"]
    change = [float(value) for value in row("factor ^ 99", output)]
    assert change[0] < 0.01 < change[1] < change[2] < 100
    assert (
        "The verdict is by factor ^ 99: below 1/100 vanishing, above 100 exploding, else healthy." in output
    )
    rnn, lstm, gru = map(float, row("t = 1", output))
    assert rnn < 1e-15 < 1e-4 < lstm < gru < 1
    assert row("t = 100", output) == ["1.0e+00"] * 3
    assert "the loss is at the last step alone" in output
    assert (tmp_path / "gradient_flow.png").read_bytes().startswith(b"\x89PNG")


def test_gates_that_are_half_closed_do_not(capsys):
    assert main(["flow", "--memory", "0"]) == 0
    output = capsys.readouterr().out
    assert "drawn at random" in output
    assert row("verdict", output) == ["vanishing"] * 3


def test_without_matplotlib_it_prints_and_says_how(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(TINY) == 0
    output = capsys.readouterr().out
    assert len(row("verdict", output)) == 3
    assert "pip install 'pybptt[plot]'" in output
    assert not list(tmp_path.iterdir())
    assert main([*TINY, "--plot", "x.png"]) == 2
    assert "pip install 'pybptt[plot]'" in capsys.readouterr().err


def test_the_table_is_of_the_flow(capsys):
    assert main([*TINY, "--cell", "gru", "--layers", "2", "--details", "--seed", "5"]) == 0
    output = capsys.readouterr().out
    rng = np.random.default_rng(5)
    x, y = flow.adding_problem(50, 3, rng)
    layer = new_layer(Settings(cell="gru", layers=2, hidden=8, seed=5), 2)
    flow.chrono(layer, 50, rng)
    model = pybptt.SequenceModel(layer, 1, loss="mse", last_only=True, seed=6)
    found = pybptt.gradient_flow(model, x, y)
    assert str(found) in output
    assert row("|dL/dh_t| / |dL/dh_T|", output) == ["gru l0", "gru l1"]
    assert row("t = 1", output) == [
        f"{found.hidden_norms[k, 0] / found.hidden_norms[k, -1]:.1e}" for k in (0, 1)
    ]
    assert row("factor a step back", output) == [f"{rate:.3f}" for rate in found.rates]
    assert row("largest s.v. of dh_T/dh_1", output) == [f"{v[0]:.1e}" for v in found.singular_values]
    assert row("gru l1 z", output)[0] == f"{found.spectral_radii[1, 1]:.3f}"


def test_a_text(text, capsys):
    assert main([*TINY, "--text", text]) == 0
    assert "50 characters of" in capsys.readouterr().out


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_a_trained_model(cell, text, tmp_path, capsys):
    saved = str(tmp_path / "run.npz")
    train = ["train", "--text", text, "--cell", cell, "--layers", "2", *SMALL, "--steps", "20"]
    assert main([*train, "--save", saved]) == 0
    capsys.readouterr()
    options = ["--load", saved, "--text", text, "--steps", "40", "--batch", "3"]
    assert main(["flow", *options, "--plot", "trained.png"]) == 0
    output = capsys.readouterr().out
    assert "20 training steps" in output
    assert row("|dL/dh_t| / |dL/dh_T|", output) == [f"{cell} l0", f"{cell} l1"]
    assert (tmp_path / "trained.png").is_file()

    # The same by hand: three stretches of the held-out text, the first and the last of its ends among them.
    arrays, facts = contents(saved)
    written = Path(text).read_text()
    vocabulary = pybptt.data.Vocabulary((UNKNOWN, *facts["alphabet"]), UNKNOWN)
    held_out = vocabulary.encode(written[-(len(written) // 20) :])
    begins = (0, (len(held_out) - 41) // 2, len(held_out) - 41)
    stretches = np.stack([held_out[at : at + 41] for at in begins], axis=1)
    layer = new_layer(Settings(cell=cell, layers=2, hidden=12), len(vocabulary))
    model = pybptt.SequenceModel(layer, len(vocabulary), last_only=True)
    model.load_parameters({name: arrays[name] for name in model.parameters})
    found = pybptt.gradient_flow(model, stretches[:-1], stretches[-1])
    assert row("|dL/dh_T|", output) == [f"{norms[-1]:.1e}" for norms in found.hidden_norms]
    assert row("largest s.v. of dh_T/dh_1", output) == [f"{v[0]:.1e}" for v in found.singular_values]
    W = arrays["weight_hh_l1"][:12]
    first = f"{cell} l1 i" if cell == "lstm" else "rnn l1"
    entry = re.findall(rf"^ *{first} +(\S+)", output, re.MULTILINE)[-1]
    assert float(entry) == pytest.approx(np.abs(np.linalg.eigvals(W)).max(), abs=1e-3)

    for wrong, word in (
        (["--hidden", "9"], "--hidden 9 doesn't fit"),
        (["--cell", "gru"], "--cell gru doesn't fit"),
        (["--memory", "9"], "--memory is for new networks"),
        (["--steps", "100000"], "too few for --steps 100000"),
    ):
        assert main(["flow", *options, *wrong]) == 2
        assert word in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--steps", "1"], "--steps"),
        (["--plot", "nowhere/x.png"], "nowhere"),
        (["--plot", "x.nonsense"], "nonsense"),
        (["--load", "missing.npz"], "missing.npz"),
        (["--text", "missing.txt"], "missing.txt"),
        (["--steps", "2147483647", "--batch", "2147483647"], "--steps 2147483647 times --batch 2147483647"),
        (["--steps", "2147483647", "--batch", "2"], "--steps 2147483647 times --batch 2"),
    ],
)
def test_bad_options(options, word, capsys):
    assert main([*TINY, *options]) == 2
    assert word in capsys.readouterr().err.splitlines()[-1]


def test_a_file_of_another_kind(tmp_path, capsys):
    layer = pybptt.RNN(3, 4)
    layer.extra = {"settings": {}, "alphabet": "ab"}
    layer.save("x.npz")
    assert main([*TINY, "--load", "x.npz"]) == 2
    assert "doesn't fit its own settings" in capsys.readouterr().err


def test_the_adding_problem():
    x, y = flow.adding_problem(21, 500, np.random.default_rng(0))
    assert x.shape == (21, 500, 2)
    assert x.dtype == y.dtype == np.float32
    marked = x[:, :, 1]
    assert set(np.unique(marked)) == {0, 1}
    assert (marked[:10].sum(axis=0) == 1).all()
    assert (marked[10:].sum(axis=0) == 1).all()
    assert marked.any(axis=1).all()  # everywhere some time
    np.testing.assert_allclose(y[:, 0], np.where(marked == 1, x[:, :, 0], 0).sum(axis=0))
    assert 0 <= x[:, :, 0].min() < 0.01 < 0.99 < x[:, :, 0].max() < 1


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_chrono_biases(cell):
    layer, plain = (new_layer(Settings(cell=cell, layers=2, hidden=400), 2) for _ in range(2))
    flow.chrono(layer, 100, np.random.default_rng(0))
    H, changed = 400, []
    for k in range(2):
        bias = layer.parameters[f"bias_ih_l{k}"] + layer.parameters[f"bias_hh_l{k}"]
        if cell != "rnn":
            kept = bias[H : 2 * H]  # f, or z
            changed += [slice(H, 2 * H)]
            U = np.exp(kept)
            assert 1 <= U.min() < 3 < 95 < U.max() < 99.001
            assert U.mean() == pytest.approx(50, abs=5)
        if cell == "lstm":
            np.testing.assert_allclose(bias[:H], -kept)
            changed += [slice(0, H)]
    for name, values in layer.parameters.items():
        same = np.ones(len(values), bool)
        if name.startswith("bias"):
            for part in changed:
                same[part] = False
        np.testing.assert_array_equal(values[same], plain.parameters[name][same])
