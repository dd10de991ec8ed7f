"""examples/mpi.py on two processes that mpiexec starts: the training of one process on the whole batch."""

import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from support import assert_close, model_problem, started

pytest.importorskip("mpi4py", reason="the example is about it")
EXAMPLE = Path(__file__).parent.parent / "examples" / "mpi.py"
MPIEXEC = shutil.which(
    "mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
)
TIMEOUT = 300  # seconds; it takes one on an idle machine

PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from mpi4py import MPI
import pybptt
tests, examples, folder = sys.argv[1:]
sys.path[:0] = [tests, examples]
import mpi
from support import model_problem

comm, found = MPI.COMM_WORLD, {}
for B in (1, 2, 5):
    p = model_problem(9, B, 6, 8, 7, reduction="sum")
    mine = mpi.columns(comm, B)
    loss, gradient, state = mpi.loss_and_grad(comm, p.model, p.x[:, mine], p.y[:, mine], p.state[:, mine])
    found |= {f"loss {B}": loss, f"gradient {B}": gradient, f"state {B}": state}

text = np.random.default_rng(0).integers(9, size=(100, 5))
model = pybptt.SequenceModel(pybptt.LSTM(9, 12, seed=comm.rank), 9, reduction="sum", seed=1)
mpi.train(comm, model, text, window=11, steps=20)  # beyond the end of the text
np.savez(Path(folder, f"{comm.rank}.npz"), trained=model.flat, **found)
"""


def mpiexec(*arguments):
    if MPIEXEC is None:
        pytest.skip("there is mpi4py, but no mpiexec")
    return output_of(MPIEXEC, "-n", "2", sys.executable, *arguments)


def output_of(*command):
    with started(*command) as process:
        output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two ranks found."""
    folder = tmp_path_factory.mktemp("mpi")
    mpiexec("-c", PROGRAM, Path(__file__).parent, EXAMPLE.parent, folder)
    return [dict(np.load(folder / f"{rank}.npz")) for rank in range(2)]


@pytest.mark.parametrize("B", [1, 2, 5])  # with one column a rank has none
def test_loss_and_gradient_are_those_of_the_whole_batch(ranks, B):
    p = model_problem(9, B, 6, 8, 7)
    loss, gradients, state = p.model.loss_and_grad(p.x, p.y, p.state)
    for found in ranks:
        assert_close(found[f"loss {B}"], loss)
        assert_close(found[f"gradient {B}"], gradients.flat)
    assert_close(np.concatenate([found[f"state {B}"] for found in ranks], axis=1), state)


def test_parameters_are_the_same_bits_after_20_steps(ranks):
    first, second = (found["trained"] for found in ranks)
    assert first.tobytes() == second.tobytes()


def test_one_process_and_two_learn_the_same(text):
    options = (EXAMPLE, "--text", text, "--steps", "150", "--batch", "4", "--window", "20", "--hidden", "16")
    one, two = output_of(sys.executable, *options), mpiexec(*options)
    assert "1 ranks, 150 steps" in one
    assert "2 ranks, 150 steps" in two
    alone, together = (float(re.search(r"([\d.]+) bits a character", output)[1]) for output in (one, two))
    assert abs(alone - together) < 0.01
    assert together < 1.5  # of six characters alike: 2.6
