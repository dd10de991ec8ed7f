"""Training runs that are saved, stopped and gone on with."""

import os
import re
import signal
import subprocess
import time

import numpy as np
import pytest
from cli_support import PYTHON, SMALL, contents, number

import pybptt
from pybptt.cli import main
from pybptt.cli.text import Corpus, read_text
from pybptt.cli.training import Settings, Training

TIMING = re.compile(r"in [\d.]+ s: [\d,]+ characters/s\n.*in all")


def test_the_history_holds_means(text):
    training = Training(Settings(hidden=6, batch=4, window=10), Corpus(read_text(text), 4))
    for row in range(2):
        taken = [training.advance() for _ in range(3)]
        training.evaluate()
        assert training.history[row] == pytest.approx(
            [3 + 3 * row, *np.mean(taken, axis=0), training.held_out_loss()]
        )


def interrupt_at(monkeypatch, step):
    """As if Ctrl-C were pressed in the middle of that step."""
    real = Training.advance

    def advance(self):
        if self.step == step:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self)

    monkeypatch.setattr(Training, "advance", advance)


def same_run(one, two):
    (arrays, facts), (others, other_facts) = contents(str(one)), contents(str(two))
    assert arrays.keys() == others.keys()
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], others[name], err_msg=name)
    del facts["seconds"], other_facts["seconds"]
    assert facts == other_facts


@pytest.mark.parametrize("stops", [[0], [37], [23, 24, 110]])
def test_going_on_after_ctrl_c_is_as_if_never_stopped(stops, text, tmp_path, monkeypatch, capsys):
    run = [
        "train",
        "--text",
        text,
        *SMALL,
        "--window",
        "50",
        "--steps",
        "120",
    ]  # 95 windows: more than a pass
    assert main([*run, "--save", str(tmp_path / "whole.npz")]) == 0
    expected = capsys.readouterr().out
    part = str(tmp_path / "part.npz")
    options = run
    for stop in stops:
        with monkeypatch.context() as patch:
            interrupt_at(patch, stop)
            assert main([*options, "--save", part]) == 130
        assert number(r"([\d,]+) steps", capsys.readouterr().out) == stop + 1
        assert contents(part)[1]["step"] == stop + 1
        options = ["train", "--load", part, "--text", text, "--sample", "20"]  # the rest is in the file
    assert main([*options, "--save", part]) == 0
    same_run(part, tmp_path / "whole.npz")
    found = capsys.readouterr().out
    assert TIMING.sub("", found) == TIMING.sub("", expected)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_loaded_run_reads_no_file_that_it_names(text, tmp_path, monkeypatch, capsys):
    """It may be anyone's: `--text` says that it is to be read, from wherever."""
    path = str(tmp_path / "run.npz")
    assert main(["train", "--text", text, *SMALL, "--steps", "2", "--save", path]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    capsys.readouterr()
    for command in (["train", "--steps", "3"], ["flow", "--steps", "9"]):
        assert main([*command, "--load", path]) == 2
        error = f"{path} was trained on {text!r}; to have that read, pass --text PATH"
        assert capsys.readouterr() == ("", f"pybptt {command[0]}: error: {error}\n")
        assert main([*command, "--load", path, "--text", os.path.relpath(text)]) == 0
        capsys.readouterr()


def test_a_run_on_the_standard_library_goes_on_by_itself(tmp_path):
    path = str(tmp_path / "run.npz")
    assert main(["train", *SMALL, "--steps", "2", "--save", path]) == 0
    assert main(["train", "--load", path, "--steps", "3", "--sample", "0"]) == 0


def test_a_run_by_time_goes_on_by_steps_and_back(text, tmp_path, capsys):
    path = str(tmp_path / "run.npz")
    options = ["--sample", "0", "--save", path]
    assert main(["train", "--text", text, *SMALL, *options, "--minutes", "0.001"]) == 0
    steps = contents(path)[1]["step"]
    assert main(["train", "--load", path, "--text", text, *options, "--steps", str(steps + 5)]) == 0
    assert contents(path)[1]["step"] == steps + 5
    assert main(["train", "--load", path, "--text", text, *options, "--minutes", "0.004"]) == 0
    assert contents(path)[1]["step"] > steps + 5


def test_a_finished_run_can_be_looked_at_and_prolonged(text, tmp_path, capsys):
    path = str(tmp_path / "run.npz")
    assert main(["train", "--text", text, *SMALL, "--steps", "20", "--save", path]) == 0
    first = capsys.readouterr().out
    assert main(["train", "--load", path, "--text", text, "--sample", "20"]) == 0
    assert TIMING.sub("", capsys.readouterr().out) == TIMING.sub("", first)
    assert (
        main(["train", "--load", path, "--text", text, "--steps", "30", "--lr", "0.01", "--save", path]) == 0
    )
    facts = contents(path)[1]
    assert (facts["step"], facts["settings"]["lr"], facts["settings"]["steps"]) == (30, 0.01, 30)


def test_ctrl_c_for_real(text, tmp_path):
    path = tmp_path / "run.npz"
    command = [*PYTHON, "train", "--text", text, *SMALL, "--steps", "100000000", "--save", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "train ppl" in line:  # the heading: training begins
                break
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        output, log = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in log
    assert "bigram table" in output
    assert 0 < contents(str(path))[1]["step"] < 100_000_000


def test_ctrl_c_twice_ends_at_once(text, tmp_path, monkeypatch, capsys):
    def stubborn(self):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        raise AssertionError("not interrupted")

    monkeypatch.setattr(Training, "advance", stubborn)
    assert main(["train", "--text", text, *SMALL]) == 130
    assert capsys.readouterr().err.endswith("error: interrupted\n")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_parameters_in_the_file_can_be_used_alone(text, tmp_path):
    path = str(tmp_path / "run.npz")
    assert main(["train", "--text", text, *SMALL, "--steps", "5", "--save", path]) == 0
    model = pybptt.load(path)
    assert repr(model) == repr(pybptt.SequenceModel(pybptt.RNN(6, 12), 6))
    assert model.extra["alphabet"] == "\nabcd"


def test_a_write_that_fails_leaves_the_old_file(text, tmp_path, monkeypatch, capsys):
    path = tmp_path / "run.npz"
    path.write_bytes(b"old")

    def full(file, *rest, **options):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    assert main(["train", "--text", text, *SMALL, "--steps", "5", "--save", str(path)]) == 1
    assert capsys.readouterr().err.endswith(f"error: cannot write {path}: No space left on device\n")
    assert path.read_bytes() == b"old"
    assert {entry.name for entry in tmp_path.iterdir()} == {"run.npz", "text.txt"}


def test_a_run_that_diverges_ends_with_a_word_and_keeps_the_last_good_file(text, tmp_path, capsys):
    path = str(tmp_path / "run.npz")
    options = [*SMALL, "--nonlinearity", "identity", "--save", path]
    assert main(["train", "--text", text, *options, "--steps", "20"]) == 0
    assert (
        main(["train", "--load", path, "--text", text, "--steps", "100", "--lr", "1e30", "--save", path]) == 1
    )
    assert "--lr" in capsys.readouterr().err.splitlines()[-1]
    assert np.isfinite(contents(path)[0]["weight_hh_l0"]).all()
