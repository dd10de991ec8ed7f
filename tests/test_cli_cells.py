"""The command line with every cell, with layers and dropout."""

import re

import numpy as np
import pytest

from pybptt import reference
from pybptt.__main__ import main
from pybptt.cli.text import Corpus, read_text
from pybptt.cli.training import Settings, Training, load_run

SMALL = ["train", "--hidden", "8", "--batch", "4", "--window", "10", "--sample", "0"]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(chr(97 + (i * i + i // 7) % 23) for i in range(6000)))
    return str(path)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("layers", ["1", "2"])
def test_compare_finds_every_cell_right(cell, layers, text, capsys):
    options = ["--hidden", "7", "--window", "20", "--batch", "3"]
    assert main(["compare", "--text", text, "--cell", cell, "--layers", layers, *options]) == 0
    output = capsys.readouterr().out
    assert f"{layers} x 7 {cell} units" in output
    assert f"weight_hh_l{int(layers) - 1}" in output


def test_compare_sees_a_wrong_gradient(text, monkeypatch, capsys):
    right = reference.run_loss_and_grad

    def wrong(*args, **options):
        loss, gradients, state = right(*args, **options)
        gradients.parameters["weight_hh_l0"][0, 0] += 1e-3
        return loss, gradients, state

    monkeypatch.setattr(reference, "run_loss_and_grad", wrong)
    options = ["--hidden", "7", "--window", "20", "--batch", "3"]
    assert main(["compare", "--text", text, "--cell", "gru", *options]) == 1
    assert "an error is beyond the bound" in capsys.readouterr().err


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_a_saved_run_goes_on_bit_for_bit(cell, text, tmp_path):
    settings = Settings(
        text, cell=cell, layers=2, dropout=0.3, hidden=8, batch=4, window=10, steps=40, lr=0.01
    )
    corpus, path = Corpus(read_text(text), 4), str(tmp_path / "run.npz")
    whole, half, rest = (Training(settings, corpus) for _ in range(3))
    for _ in range(40):
        whole.advance()
    for _ in range(20):
        half.advance()
    half.save(path)
    saved = load_run(path)
    assert ("c" in saved.model.extra["state"]) == (cell == "lstm")
    rest.restore(saved, path)
    for _ in range(20):
        rest.advance()
    assert np.array_equal(rest.model.flat, whole.model.flat)
    assert not np.array_equal(half.model.flat, whole.model.flat)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_the_summary_names_the_network(cell, text, tmp_path, capsys):
    path = str(tmp_path / "run.npz")
    network = ["--text", text, "--cell", cell, "--layers", "2", "--steps", "20", "--save", path]
    assert main([*SMALL, *network]) == 0
    assert main(["train", "--text", text, "--load", path, "--steps", "30", "--sample", "20"]) == 0
    assert capsys.readouterr().out.count(f"(2 x 8 {'tanh' if cell == 'rnn' else cell})") == 2


def test_settings_that_do_not_fit(text, tmp_path, capsys):
    path = str(tmp_path / "run.npz")
    assert main([*SMALL, "--text", text, "--cell", "gru", "--steps", "5", "--save", path]) == 0
    assert main(["train", "--text", text, "--load", path, "--cell", "lstm"]) == 2
    assert re.search("--cell lstm doesn't fit .* gru", capsys.readouterr().err)
    assert main(["train", "--text", text, "--load", path, "--nonlinearity", "relu"]) == 2
    assert "--nonlinearity is of the rnn cell" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*SMALL, "--text", text, "--dropout", "1.5"])
    assert "must be from 0 to 1, got 1.5" in capsys.readouterr().err
