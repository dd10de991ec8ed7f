"""The command line: what it prints, keeps and refuses, and how it ends."""

import importlib
import io
import itertools
import os
import platform
import re
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest
from cli_support import PYTHON, SMALL, contents, number

import pybptt
from pybptt.cli import compare, main
from pybptt.cli.common import require_writable
from pybptt.cli.progress import progress
from pybptt.cli.text import Corpus, read_text
from pybptt.cli.training import Settings, Training

# The program


def test_version():
    result = subprocess.run([*PYTHON, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"pybptt {pybptt.__version__}\n"


@pytest.mark.parametrize("command", [[], ["train"], ["compare"], ["flow"], ["info"]])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert end.value.code == 0
    output = capsys.readouterr().out
    assert "usage: pybptt" in output
    for word in {
        "train": ["--text", "Ctrl-C", "default 0.7"],
        "compare": ["two nested loops"],
        "flow": ["--memory"],
    }.get("".join(command), []):
        assert word in output


def test_no_command_is_an_error(capsys):
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_importing_the_package_imports_none_of_it():
    code = "import sys, pybptt; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(result.stdout.split())
    assert "pybptt" in modules
    assert not {"pybptt.cli", "tqdm", "matplotlib", "json.decoder"} & modules


def test_a_reader_that_goes_away_is_no_error():
    with subprocess.Popen(
        [*PYTHON, "info"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as command:
        command.stdout.close()
        assert command.stderr.read() == ""
    assert command.returncode == 1


@pytest.mark.parametrize("variable", ["PYBPTT_TIER", "PYBPTT_NUM_THREADS"])
def test_a_wrong_environment_variable_is_one_line_and_exit_code_2(variable):
    environment = {**os.environ, variable: "nonsense"}
    result = subprocess.run([*PYTHON, "info"], env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stdout == ""
    assert re.fullmatch(rf"pybptt info: error: .*{variable}.*nonsense.*\n", result.stderr)


def test_info(capsys):
    assert main(["info"]) == 0
    lines = dict(re.split(r" {2,}", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    config = pybptt.config()
    assert lines["pybptt"] == pybptt.__version__
    assert lines["tier in use"] == config["tier"]
    assert lines["threads"] == str(config["threads"])
    assert lines["tiers built"] == ", ".join(config["tiers_built"])
    assert lines["numpy"] == np.__version__
    assert lines["python"] == platform.python_version()


# Training


def test_training_learns_what_pairs_do_not_tell(text, capsys):
    assert (
        main(["train", "--text", text, *SMALL, "--steps", "400", "--lr", "0.01", "--prompt", "abacad\nab"])
        == 0
    )
    output, log = capsys.readouterr()
    bigram = number(r"bigram table +([\d.]+)", output)
    network = number(r"this network .*? +([\d.]+) +[\d.]+\n", output)
    assert network < 1.05 < 1.5 < bigram < number(r"unigram table +([\d.]+)", output)
    assert number(r"([\d,]+) steps", output) == 400
    assert number(r"([\d,]+) parameters", output) == 12 * 6 + 12 * 12 + 24 + 6 * 12 + 6
    assert number(r"([\d,]+) characters/s", output) > 0
    sample = output.split("threads\n\n")[1][:-1]
    assert sample == ("abacad\n" * 5)[:29]
    assert len(re.findall(r"^ +\d+ +[\d.]+ +[\d.]+ +[\d.]+ +[\d,]+$", log, re.MULTILINE)) == 20


def test_training_on_the_standard_library_beats_the_bigram_table(capsys):
    assert main(["train", "--hidden", "128", "--steps", "1200", "--sample", "0"]) == 0
    output = capsys.readouterr().out
    bigram = number(r"bigram table +([\d.]+)", output)
    assert number(r"this network .*? +([\d.]+) +[\d.]+\n", output) < 0.9 * bigram


def test_the_held_out_loss_does_not_depend_on_how_it_is_cut(text, monkeypatch):
    training = Training(Settings(hidden=8, dtype="float64"), Corpus(read_text(text), 32))
    losses = []
    for window in (1, 7, 200, 10_000):
        monkeypatch.setattr("pybptt.cli.training.EVALUATION_WINDOW", window)
        losses.append(training.held_out_loss())
    ids = training.corpus.held_out
    assert losses == pytest.approx([training.model.loss(ids[:-1], ids[1:])[0]] * 4, rel=1e-12)


def test_a_step_is_the_one_documented(text):
    """State carried from window to window and reset at the text's beginning, clipping, falling rate."""
    settings = Settings(hidden=6, dtype="float64", batch=4, window=300, steps=40, lr=0.1)
    training = Training(settings, Corpus(read_text(text), 4))
    training.model.flat *= 8  # so that gradients are long enough to be clipped
    assert training.windows == 15
    rnn = pybptt.RNN(6, 6, dtype="float64")
    model = pybptt.SequenceModel(rnn, 6)
    model.flat = training.model.flat
    optimiser, state, clipped = pybptt.optim.Adam(model.flat, 0.1), None, 0
    for step in range(20):
        at = step % 15 * 300
        state = None if at == 0 else state
        ids = training.corpus.train[at : at + 301]
        loss, gradients, state = model.loss_and_grad(ids[:-1], ids[1:], state)
        norm = np.sqrt((gradients.flat**2).sum())
        clipped += norm > 1
        optimiser.lr = 0.1 * min(1, 0.1 + 0.9 * step / 2) * 0.5 * (1 + np.cos(np.pi * step / 40))
        optimiser.step(gradients.flat / max(1.0, norm))
        assert training.advance() == pytest.approx((loss, norm), rel=1e-9)
    assert 0 < clipped < 20
    np.testing.assert_allclose(training.model.flat, model.flat, rtol=1e-7)


def test_the_default_rate_is_smaller_for_larger_networks():
    assert Settings(hidden=1000).rate(0.5) == pytest.approx(0.001 / 2)
    assert Settings(hidden=10).rate(0.5) == pytest.approx(0.005 / 2)
    assert Settings(lr=0.3).rate(0.5) == pytest.approx(0.3 / 2)
    assert Settings(lr=0.3).rate(1.0) == 0


@pytest.mark.parametrize(
    ("options", "steps"), [(["--epochs", "0.5"], 237), (["--steps", "3"], 3), (["--epochs", "0.001"], 1)]
)
def test_the_length_of_a_run(options, steps, text, capsys):
    assert main(["train", "--text", text, *SMALL, *options]) == 0
    assert number(r"([\d,]+) steps", capsys.readouterr().out) == steps


@pytest.fixture
def clock(monkeypatch):
    """A second passes whenever the command looks at it: no test waits for, or depends on, the machine's own.

    It is the command's alone: whatever else runs in this process may look at Python's.
    """
    seconds = itertools.count()
    own = types.SimpleNamespace(perf_counter=lambda: float(next(seconds)))
    monkeypatch.setattr("pybptt.cli.train.time", own)
    monkeypatch.setattr("pybptt.cli.training.time", own)


@pytest.mark.parametrize(("options", "seconds"), [([], 60), (["--minutes", "0.5"], 30)])
def test_minutes_limit_a_run(options, seconds, text, clock, capsys):
    """A step looks twice at the clock, and so does an evaluation, of which the last may be late."""
    assert main(["train", "--text", text, *SMALL, *options]) == 0
    output, log = capsys.readouterr()
    found = number(r"in ([\d.]+) s", output)
    assert found in (seconds, seconds + 1)
    evaluations = len(re.findall(r"^ +\d+ +[\d.]+ +[\d.]+ +[\d.]+ +[\d,]+$", log, re.MULTILINE))
    assert 10 <= evaluations <= 20
    assert number(r"([\d,]+) steps", output) + evaluations == found
    assert number(r"([\d.]+) s in all", output) == 2 * found + 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu", "sigmoid", "identity"])
def test_the_networks_options(dtype, nonlinearity, text, tmp_path, capsys):
    path = tmp_path / "run.npz"
    options = ["--dtype", dtype, "--nonlinearity", nonlinearity, "--steps", "20"]
    assert main(["train", "--text", text, *SMALL, *options, "--save", str(path)]) == 0
    assert f"this network (12 {nonlinearity})" in capsys.readouterr().out
    arrays, facts = contents(str(path))
    assert arrays["weight_hh_l0"].dtype == dtype
    assert facts["settings"]["nonlinearity"] == nonlinearity


def test_threads_do_not_change_the_result(text, tmp_path, capsys):
    before = pybptt.get_num_threads()
    try:
        for threads in "123":
            save = ["--save", str(tmp_path / threads), "--threads", threads]
            assert main(["train", "--text", text, "--hidden", "96", "--steps", "6", *save]) == 0
            assert f"{threads} threads" in capsys.readouterr().out
    finally:
        pybptt.set_num_threads(before)
    one, two, three = (contents(str(tmp_path / threads))[0] for threads in "123")
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
        np.testing.assert_array_equal(one[name], three[name])


# The sample


def test_the_samples_options(text, capsys):
    def sample(*options):
        assert main(["train", "--text", text, *SMALL, "--steps", "2", *options]) == 0
        return capsys.readouterr().out.partition("threads\n")[2]

    assert sample("--sample", "0") == ""
    assert sample("--prompt", "ab", "--sample", "5").startswith("\nab")
    assert len(sample("--prompt", "", "--sample", "5")) == len("\n" + 5 * "x" + "\n")
    assert sample() == sample()
    assert sample("--temperature", "0", "--seed", "1") == sample("--temperature", "0")


# The display


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar(monkeypatch):
    pytest.importorskip("tqdm", reason="the bar is tqdm's")
    monkeypatch.setattr(sys, "stderr", Terminal())
    display = progress(2, 10, "steps")
    display.show(4.0, "fine")
    display.note("a line")
    display.show(6.0, "better")
    display.note("another line")
    display.close()
    written = sys.stderr.getvalue()
    assert "\r" in written
    assert " 40%|" in written
    assert "2/10 steps" in written
    assert "4/10 steps" in written
    assert "6/10 steps" in written
    assert ", fine]" in written
    assert "a line\n" in written


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_without_tqdm_or_terminal_there_are_lines(stream, monkeypatch):
    if stream is Terminal:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(sys, "stderr", stream())
    display = progress(0, 2000, "steps")
    display.show(400, "not yet")
    display._last -= 5
    display.show(1000, "fine")
    display.note("a line")
    display.close()
    assert sys.stderr.getvalue() == "1,000 of 2,000 steps: fine\na line\n"


def test_the_plot(text, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="it draws")
    path = tmp_path / "curves.png"
    assert main(["train", "--text", text, *SMALL, "--steps", "20", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_output_the_terminal_cannot_show_is_escaped(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("äöü" * 3000, encoding="utf-8")
    command = [*PYTHON, "train", "--text", str(path), *SMALL, "--steps", "1", "--prompt", "a"]
    result = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert result.returncode == 0
    assert rb"\xe4" in result.stdout or rb"\xf6" in result.stdout or rb"\xfc" in result.stdout


# Bad input


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Good and bad files, made once."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "good.txt").write_text("abacad\n" * 3000)
    (folder / "other.txt").write_text("abacae\n" * 3000)
    (folder / "empty.txt").write_text("")
    (folder / "short.txt").write_text("abc" * 50)
    (folder / "latin.txt").write_bytes("caf\xe9 ".encode("latin-1") * 1000)
    (folder / "noise.npz").write_bytes(b"\x00\x01noise" * 100)
    (folder / "empty.npz").write_bytes(b"")
    np.save(folder / "array.npy", np.ones(3))
    np.savez(folder / "foreign.npz", weight=np.ones(3))
    np.savez(folder / "objects.npz", weight=np.array([{}], object))
    good = folder / "good.npz"
    assert (
        main(["train", "--text", str(folder / "good.txt"), *SMALL, "--steps", "2", "--save", str(good)]) == 0
    )
    (folder / "cut.npz").write_bytes(good.read_bytes()[:-300])
    damaged = bytearray(good.read_bytes())
    damaged[300:600] = bytes(300)
    (folder / "damaged.npz").write_bytes(damaged)
    run = pybptt.load(good)
    whole, settings = dict(run.extra), run.extra["settings"]
    for name, changed in {
        "resized": {"settings": {**settings, "hidden": 11}},
        "optimiser": {"optimiser": {**whole["optimiser"], "m": whole["optimiser"]["m"][:-1]}},
        "settings": {"settings": {"size": 3}},
    }.items():
        run.extra = {**whole, **changed}
        run.save(folder / f"{name}.npz")
    with zipfile.ZipFile(good) as archive, zipfile.ZipFile(folder / "future.npz", "w") as future:
        for name in archive.namelist():
            future.writestr(name, archive.read(name).replace(b'"format": 1', b'"format": 99'))
    return folder


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--text {}/missing.txt", "No such file"),
        ("--text {}", "directory"),
        ("--text {}/empty.txt", "0 characters are too few"),
        ("--text {}/short.txt --batch 8", "--batch 8 and --window 25"),
        ("--text {}/short.txt --batch 200", "--batch 200"),
        ("--text {}/latin.txt", "not UTF-8.*byte 3"),
        ("--load {}/missing.npz", "No such file"),
        ("--load {}", "directory"),
        ("--load {}/noise.npz", "expected a whole file"),
        ("--load {}/empty.npz", "expected a whole file"),
        ("--load {}/array.npy", "expected a whole file"),
        ("--load {}/foreign.npz", "expected a whole file"),
        ("--load {}/objects.npz", "expected a whole file"),
        ("--load {}/cut.npz", "expected a whole file"),
        ("--load {}/damaged.npz", "expected a whole file"),
        ("--load {}/resized.npz", "hidden: found 12 in place of 11"),
        ("--load {}/optimiser.npz --text {}/good.txt", "in place of float32"),
        ("--load {}/settings.npz", "settings"),
        ("--load {}/future.npz", "format 1, got 99"),
        ("--load {}/good.npz --hidden 13", "--hidden 13 .* 12"),
        ("--load {}/good.npz --batch 5", "--batch 5 .* 4"),
        ("--load {}/good.npz --dtype float64", "--dtype float64 .* float32"),
        ("--load {}/good.npz --text {}/other.txt", "another text"),
        ("--text {}/good.txt --save {}/no/run.npz", "no directory"),
        ("--text {}/good.txt --save {}", "directory"),
        ("--text {}/good.txt --save /dev/null", "not a regular file"),
        ("--text {}/good.txt --save {}/" + 300 * "x", "File name too long"),
        ("--text {}/good.txt --plot {}/no/x.png", "no directory"),
        ("--text {}/good.txt --plot {}/x.xyz", r"expected a name that ends in .*\.pdf, .*\.png"),
        ("--text {}/good.txt --plot {}/png", "expected a name that ends in"),
        ("--text {}/good.txt --hidden 100000000", "memory"),
        ("--text {}/good.txt --hidden 2147483647 --layers 10000", "memory"),
        ("--text {}/good.txt --window 2147483647", "too short for --batch 32 and --window 2147483647"),
        ("--text {}/good.txt --batch 2147483647", "too few for --batch 2147483647"),
        ("--text {}/good.txt --epochs 100000000", "--epochs 1e.08 are more than 2,147,483,647 steps"),
        ("--text {}/good.txt --epochs 1e300", "--epochs 1e.300 are more than 2,147,483,647 steps"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(options, words, folder, capsys):
    assert main(["train", *options.replace("{}", str(folder)).split()]) == 2
    output, error = capsys.readouterr()
    assert output == ""
    assert re.fullmatch(rf"pybptt train: error: .*{words}.*\n", error)


@pytest.mark.parametrize(
    "options",
    [
        "--hidden 0",
        "--batch -1",
        "--window x",
        "--lr 0",
        "--lr nan",
        "--minutes inf",
        "--minutes 1e308",
        "--epochs 1e308",
        "--temperature -1",
        "--sample -1",
        "--seed -1",
        "--threads 1025",
        "--dtype float16",
        "--nonlinearity softmax",
        "--steps 3 --epochs 1",
        "--layers 9223372036854775807",
        "--layers 10001",
        "--hidden 9223372036854775807",
        "--sample 9223372036854775807",
        "--unknown",
    ],
)
def test_bad_options_are_refused_by_name(options, capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", *options.split()])
    assert end.value.code == 2
    assert options.split()[-2:][0] in capsys.readouterr().err.splitlines()[-1]


def test_outputs_are_tried_and_left_as_they_were(tmp_path):
    for name in ("new.npz", "old.npz"):
        path = tmp_path / name
        if name == "old.npz":
            path.write_bytes(b"old")
        require_writable(str(path))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_prompt_with_other_characters_is_told(text, capsys):
    for options, told in (
        (["--prompt", "abä€"], "'ä', '€'"),
        (["--prompt", "ab"], ""),
        (["--sample", "0"], ""),
    ):
        assert main(["train", "--text", text, *SMALL, "--steps", "1", *options]) == 0
        error = capsys.readouterr().err
        assert ("--prompt" in error) == bool(told)
        assert not told or f"--prompt: {told} not in the text; read as its unknown character\n" in error


def test_a_plot_without_matplotlib_is_refused_before_any_work(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["train", "--plot", str(tmp_path / "x.png")]) == 2
    assert "pip install 'pybptt[plot]'" in capsys.readouterr().err


# compare


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(compare, "SECONDS", 0.01)


def test_compare_finds_the_core_right(text, hurried, capsys):
    options = ["--text", text, "--hidden", "10", "--window", "30", "--batch", "3"]
    assert main(["compare", *options]) == 0
    output = capsys.readouterr().out
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "output.weight", "output.bias"):
        assert number(rf"{re.escape(name)} +(\S+)", output) < 1e-12
    for name in ("dLdU", "dLdV", "dLdW"):
        float64, float32 = map(float, re.search(rf"{name} +(\S+) +(\S+)", output).groups())
        assert float64 < 1e-12 < 1e-8 < float32 < 1e-4
    assert len(re.findall(r"two loops, NumPy +[\d.,]+ +([\d.,]+) x", output)) == 2
    assert len(re.findall(r"sweep, NumPy +[\d.,]+ +([\d.,]+) x", output)) == 1


@pytest.mark.parametrize("wrong", [1e-3, np.nan])
@pytest.mark.parametrize("entry", [0, 1, 2])
def test_compare_finds_the_core_wrong(wrong, entry, text, hurried, monkeypatch, capsys):
    def spoilt(*arguments):
        gradients = pybptt.bptt(*arguments)
        gradients[entry][2, 2] += wrong
        return gradients

    monkeypatch.setattr(compare, "bptt", spoilt)
    assert main(["compare", "--text", text, "--hidden", "10", "--window", "30", "--batch", "3"]) == 1
    assert "beyond the bound" in capsys.readouterr().err


def test_compare_refuses_a_text_that_is_too_short(folder, capsys):
    assert main(["compare", "--text", str(folder / "short.txt")]) == 2
    assert "--window 200" in capsys.readouterr().err


def test_compare_refuses_a_missing_text(folder, capsys):
    assert main(["compare", "--text", str(folder / "missing.txt")]) == 2
    assert "No such file" in capsys.readouterr().err
