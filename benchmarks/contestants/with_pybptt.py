"""pybptt as a user calls it: arrays in, arrays out, nothing kept from one step to the next."""

from __future__ import annotations

import numpy as np
from rows import Problem, Row

import pybptt
from contestants import Gradients, Step


class Contestant:
    def __init__(self, threads: int):
        pybptt.set_num_threads(threads)
        self.version = f"{pybptt.__version__} ({pybptt.config()['tier']})"

    def prepare(self, row: Row, problem: Problem) -> tuple[Step, Gradients]:
        rnn = pybptt.RNN(row.D, row.H, dtype=row.dtype)
        owner = pybptt.SequenceModel(rnn, row.Q) if row.Q else rnn
        for name, values in problem.parameters.items():
            owner.parameters[name][...] = values

        def layer_step():
            _, _, tape = rnn.forward(problem.x)
            return rnn.backward(tape, problem.d_output, input=False)

        def model_step():
            return owner.loss_and_grad(problem.x, problem.y)[1]

        def gradients(result) -> dict[str, np.ndarray]:
            return result.parameters

        return (model_step if row.Q else layer_step), gradients
