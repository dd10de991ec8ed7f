"""PyTorch with the loop over time written by hand, which on several rows is faster than its nn.RNN.

Not among the default peers, because a user of PyTorch writes nn.RNN; `--peers torch,torch_loop` shows both.
"""

from __future__ import annotations

import numpy as np
import torch
from rows import Problem, Row

from contestants import Gradients, Step, with_torch


class Contestant(with_torch.Contestant):
    def covers(self, row: Row) -> bool:
        return row.plain

    def prepare(self, row: Row, problem: Problem) -> tuple[Step, Gradients]:
        return with_torch.prepare_model(problem) if row.Q else prepare_layer(problem)


def prepare_layer(problem: Problem) -> tuple[Step, Gradients]:
    parameters = with_torch.leaves(problem)
    x = torch.from_numpy(problem.x)
    d_output = torch.from_numpy(problem.d_output)

    def step() -> None:
        for parameter in parameters.values():
            parameter.grad = None
        bias = parameters["bias_ih_l0"] + parameters["bias_hh_l0"]
        z = torch.nn.functional.linear(x, parameters["weight_ih_l0"], bias)
        with_torch.unrolled(z, parameters["weight_hh_l0"]).backward(d_output)

    def gradients(_) -> dict[str, np.ndarray]:
        return {name: parameter.grad.numpy() for name, parameter in parameters.items()}

    return step, gradients
