"""pybptt as a user calls it: arrays in, arrays out, nothing kept from one step to the next."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from rows import Problem, Row

import pybptt
from contestants import Gradients, Step

# Version 0.1 has one layer of one cell, no lengths and no truncation; without those arguments it can still be
# measured.


def make_layer(row: Row, problem: Problem):
    """The row's layer (or stack) with the problem's parameters."""
    sizes = (row.D, row.H) if row.layers == 1 else (row.D, row.H, row.layers)
    layer = getattr(pybptt, row.cell)(*sizes, dtype=row.dtype)
    for name, values in layer.parameters.items():
        values[...] = problem.parameters[name]
    return layer


def on_input(call: Callable, problem: Problem) -> Callable:
    """`call` (a layer or its `forward`) on the problem's input, and on its lengths where it has some."""
    lengths = {} if problem.lengths is None else {"lengths": problem.lengths}
    return partial(call, problem.x, **lengths)


def going_back(layer, row: Row, problem: Problem) -> Callable:
    """`layer.backward` with the problem's upstream gradient and the row's truncation, still to get a tape."""
    truncation = {"truncation": pybptt.TBPTT(*row.truncation)} if row.truncation else {}
    return partial(layer.backward, d_output=problem.d_output, input=False, **truncation)


def layer_step(layer, row: Row, problem: Problem) -> Step:
    """Forward and backward of a layer."""
    forward, backward = on_input(layer.forward, problem), going_back(layer, row, problem)

    def step():
        _, _, tape = forward()
        return backward(tape)

    return step


def model_step(layer, row: Row, problem: Problem) -> Step:
    """Loss and gradients of the whole model."""
    model = pybptt.SequenceModel(layer, row.Q)
    for name, values in problem.parameters.items():
        model.parameters[name][...] = values

    def step():
        return model.loss_and_grad(problem.x, problem.y)[1]

    return step


def has(row: Row) -> bool:
    """Whether this version can do `row`."""
    return hasattr(pybptt, row.cell) and (row.truncation is None or hasattr(pybptt, "TBPTT"))


class Contestant:
    def __init__(self, threads: int):
        pybptt.set_num_threads(threads)
        self.version = f"{pybptt.__version__} ({pybptt.config()['tier']})"

    def covers(self, row: Row) -> bool:
        return has(row)

    def prepare(self, row: Row, problem: Problem) -> tuple[Step, Gradients]:
        layer = make_layer(row, problem)
        step = model_step(layer, row, problem) if row.Q else layer_step(layer, row, problem)

        def gradients(result) -> dict[str, np.ndarray]:
            return result.parameters

        return step, gradients
