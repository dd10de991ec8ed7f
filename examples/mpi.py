"""The character model of `python -m pybptt train` on many processes, without PyTorch: one Allreduce a step.

Every process (rank) has the whole model and some columns of the batch. The gradient of a sum of losses is the
sum of the ranks' gradients; MPI gives that sum to all ranks with the same bits, so all make the same step and
their parameters stay the same without ever being sent. Up to the order of additions it is the training of one
process on the whole batch.

    pip install 'pybptt[mpi]'     # on a cluster: pip install mpi4py, which finds the MPI that is there
    mpiexec -n 2 python examples/mpi.py [--steps N]
    python examples/mpi.py        # one process

With `python -m mpi4py examples/mpi.py` an error in one rank ends all of them.
"""

import argparse
import math
from typing import Any

import numpy as np
from mpi4py import MPI

import pybptt
from pybptt.cli.progress import progress
from pybptt.cli.text import Corpus, read_text


def columns(comm: MPI.Comm, batch: int) -> slice:
    """This rank's columns of a batch; some ranks may have one more than others, or none."""
    return slice(batch * comm.rank // comm.size, batch * (comm.rank + 1) // comm.size)


def loss_and_grad(
    comm: MPI.Comm, model: pybptt.SequenceModel[Any], x: np.ndarray, y: np.ndarray, state: Any = None
) -> tuple[float, np.ndarray, Any]:
    """Mean loss over all ranks' targets, its gradient, and the state of this rank's columns x and y (T, b).

    The model's reduction is "sum": sums add up whatever a rank's share is, means do not. For ragged columns
    count `lengths.sum()` in place of `y.size`.
    """
    loss, gradients, state = model.loss_and_grad(x, y, state)
    sums = np.append(gradients.flat, np.array([loss, y.size], gradients.flat.dtype))
    comm.Allreduce(MPI.IN_PLACE, sums)
    loss, count = sums[-2:]
    return float(loss / count), sums[:-2] / count, state


def train(
    comm: MPI.Comm, model: pybptt.SequenceModel[Any], text: np.ndarray, window: int, steps: int
) -> None:
    """Adam on windows of the streams text (N, B), again from the beginning when they end."""
    comm.Bcast(model.flat)  # that of rank 0
    optimiser = pybptt.optim.Adam(model.flat, lr=3e-3)
    mine = text[:, columns(comm, text.shape[1])]
    windows, state = (len(mine) - 1) // window, None
    display = progress(0, steps, "steps") if comm.rank == 0 else None
    for step in range(steps):
        begin = step % windows * window
        x, y = mine[begin : begin + window], mine[begin + 1 : begin + window + 1]
        loss, gradient, state = loss_and_grad(comm, model, x, y, state if begin else None)
        optimiser.step(pybptt.clip_by_norm(gradient, 1.0))
        if display:
            display.show(step + 1, f"{loss / math.log(2):.3f} bits a character")
    if display:
        display.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", metavar="FILE", help="UTF-8 text (default: Python's standard library)")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32, help="columns, of all ranks together (default 32)")
    parser.add_argument("--window", type=int, default=50, help="characters a step (default 50)")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument(
        "--threads", type=int, help="of each rank (default: a machine's ranks share its cores)"
    )
    args = parser.parse_args()

    comm = MPI.COMM_WORLD
    neighbours = comm.Split_type(MPI.COMM_TYPE_SHARED).size
    pybptt.set_num_threads(args.threads or max(1, pybptt.get_num_threads() // neighbours))

    corpus = Corpus(read_text(args.text), args.batch)
    symbols = len(corpus.vocabulary)
    model = pybptt.SequenceModel(pybptt.LSTM(symbols, args.hidden, seed=1), symbols, reduction="sum", seed=2)
    train(comm, model, corpus.train, args.window, args.steps)

    held_out = corpus.held_out[:, columns(comm, corpus.held_out.shape[1])]
    loss = comm.allreduce(model.loss(held_out[:-1], held_out[1:])[0]) / corpus.held_out[1:].size
    if comm.rank == 0:
        print(f"{comm.size} ranks, {args.steps} steps of {args.batch} x {args.window} characters")
        print(f"on held-out text: {loss / math.log(2):.3f} bits a character")


if __name__ == "__main__":
    main()
