"""PyTorch: nn.RNN, nn.LSTM, nn.GRU and autograd; ragged batches as packed sequences.

It has no truncation of its own; `block_step` and `window_step` are what one writes.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from rows import Problem, Row
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from contestants import Gradients, Step

# Windows that go back together, as one batch of sequences.
WINDOWS = 16


class Contestant:
    def __init__(self, threads: int):
        torch.set_num_threads(threads)
        self.version = torch.__version__

    def covers(self, row: Row) -> bool:
        # An nn.LSTM does not tell the cell states at every step, from which windows would start.
        return row.truncation is None or row.truncation[0] > 1 or row.cell != "LSTM"

    def prepare(self, row: Row, problem: Problem) -> tuple[Step, Gradients]:
        return prepare_model(problem) if row.Q else prepare_layer(row, problem)


def prepare_layer(row: Row, problem: Problem) -> tuple[Step, Gradients]:
    make = getattr(torch.nn, row.cell)
    rnn = make(row.D, row.H, row.layers, dtype=getattr(torch, row.dtype))
    rnn.load_state_dict({name: torch.from_numpy(values) for name, values in problem.parameters.items()})
    x = torch.from_numpy(problem.x)
    d_output = torch.from_numpy(problem.d_output)
    lengths = None if problem.lengths is None else torch.from_numpy(problem.lengths)

    def step() -> None:
        rnn.zero_grad(set_to_none=True)
        output, _ = rnn(x)
        output.backward(d_output)

    def packed_step() -> None:
        """Padded arrays in, padded arrays out; the lengths come in no order."""
        rnn.zero_grad(set_to_none=True)
        packed, _ = rnn(pack_padded_sequence(x, lengths, enforce_sorted=False))
        output, _ = pad_packed_sequence(packed, total_length=row.T)
        output.backward(d_output)

    def gradients(_) -> dict[str, np.ndarray]:
        return {name: parameter.grad.numpy() for name, parameter in rnn.named_parameters()}

    if row.truncation:
        k1, k2 = row.truncation
        return partial(window_step if k1 == 1 else block_step, rnn, x, d_output, k2), gradients
    return (step if lengths is None else packed_step), gradients


def block_step(rnn: torch.nn.RNNBase, x: torch.Tensor, d_output: torch.Tensor, k: int) -> None:
    """TBPTT(k, k): one block after the other, the state detached between them.

    All blocks as one batch, from states that a first pass without gradients has found, was tried: 1.1 times
    the time for the RNN, 1.7 times for the LSTM.
    """
    rnn.zero_grad(set_to_none=True)
    state = None
    for x_block, d_block in zip(x.split(k), d_output.split(k), strict=True):
        output, state = rnn(x_block, state)
        output.backward(d_block)
        state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()


def window_step(rnn: torch.nn.RNNBase, x: torch.Tensor, d_output: torch.Tensor, k: int) -> None:
    """TBPTT(1, k), where the states are the outputs: first all of them, without gradients, then the windows.

    The windows up to step k begin at the same state, so they are one sequence; each later one has the loss of
    its last step alone. All of those as one batch was tried, and takes twice the time of pieces.
    """
    rnn.zero_grad(set_to_none=True)
    with torch.no_grad():
        states, _ = rnn(x)
    output, _ = rnn(x[:k])
    output.backward(d_output[:k])
    steps = x[1:].unfold(0, k, 1).permute(3, 0, 1, 2)  # (k, T - k, B, D): the windows of steps k + 1, ..., T
    pieces = steps.split(WINDOWS, 1), states[:-k].split(WINDOWS), d_output[k:].split(WINDOWS)
    for x_piece, starts, d_last in zip(*pieces, strict=True):
        _, h = rnn(x_piece.flatten(1, 2), starts.flatten(0, 1)[None])
        h.backward(d_last.flatten(0, 1)[None])


def prepare_model(problem: Problem) -> tuple[Step, Gradients]:
    """The whole model on token ids, in the fastest of the forms that were tried.

    Those were, in ms at one thread: this one, an embedding and a loop over time by hand, 4.7; an embedding
    and nn.RNN with W_ih = 1, 5.5; F.embedding(tokens, W_ih.T) and the same, 6.0; one-hot inputs, 7.1.
    """
    parameters = leaves(problem)
    # The columns of W_ih as rows, as an embedding's weight has them: its gradient is then written in place.
    parameters["weight_ih_l0"] = parameters["weight_ih_l0"].detach().T.contiguous().requires_grad_()
    tokens, y = torch.from_numpy(problem.x), torch.from_numpy(problem.y).flatten()

    def step() -> None:
        for parameter in parameters.values():
            parameter.grad = None
        z = torch.nn.functional.embedding(tokens, parameters["weight_ih_l0"])
        bias = parameters["bias_ih_l0"] + parameters["bias_hh_l0"]
        output = unrolled(z + bias, parameters["weight_hh_l0"])
        logits = torch.nn.functional.linear(
            output.flatten(0, 1), parameters["output.weight"], parameters["output.bias"]
        )
        torch.nn.functional.cross_entropy(logits, y).backward()

    def gradients(_) -> dict[str, np.ndarray]:
        found = {name: parameter.grad.numpy() for name, parameter in parameters.items()}
        return found | {"weight_ih_l0": found["weight_ih_l0"].T}

    return step, gradients


def leaves(problem: Problem) -> dict[str, torch.Tensor]:
    """The problem's parameters as tensors of their own that want gradients."""
    return {name: torch.tensor(values, requires_grad=True) for name, values in problem.parameters.items()}


def unrolled(z: torch.Tensor, W_hh: torch.Tensor) -> torch.Tensor:
    """States (T, B, H) by a loop over time in Python, from the input's projection z (T, B, H)."""
    W = W_hh.T
    h = z.new_zeros(z.shape[1:])
    states = []
    for z_t in z.unbind(0):
        h = torch.tanh(torch.addmm(z_t, h, W))
        states.append(h)
    return torch.stack(states)
