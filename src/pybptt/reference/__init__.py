"""Recurrent networks and their gradients in plain NumPy: float64, explicit loops, one equation a line.

This package is slow on purpose. It is the oracle that the compiled core is tested against, a text to learn
from, and the guide for a port to another language. It needs NumPy and nothing else. Read it in this order:

- four_ways.py: one Elman layer, and four ways to one gradient. `backward_two_loops` (and `bptt`, the same as
  textbooks print it), `backward`, the memoised sweep, `forward_accumulation` and `finite_differences`.
- elman.py, lstm.py, gru.py: one step forward and one step back of each cell.
- network.py: layers, two directions, ragged batches: `run`, and `sweep`, which goes back.
- truncation.py: truncated backpropagation, one sweep for each window of losses. clipping.py: of dh_t.
- losses.py: output layer and losses; activations.py. scan.py: the linear recurrence.

===========  ===========================================================================  ================
T B D H Q    time steps, batch, input size, hidden size, outputs
P            entries of h_t: H, but fewer in an LSTM with a projection
x_t          input of step t                                                              (B, D)
h_t          hidden state; h_0 is given, or zero                                          (B, P)
c_t          cell state of an LSTM; c_0 is given, or zero                                 (B, H)
z_t          pre-activation of all G gates: G is 1, for an LSTM 4 or 3, for a GRU 3       (B, G H)
o_t, y_t     output, and target: a class id (B,) or values (B, Q)                         (B, Q)
L            the loss: sum, or mean, of one l(o_t, y_t) for each step that counts
dl_t         dL/dh_t **direct**: what enters h_t from step t's own output                 (B, P)
dh_t         dL/dh_t **total**: through step t's own output and through every later step  (B, P)
dz_t         dL/dz_t                                                                      (B, G H)
===========  ===========================================================================  ================

Equations in comments are those of one sequence, vectors standing as columns. The code holds the batch as B
rows, so the comment's ``W v`` is the code's ``v @ W.T``, and the comment's ``W^T v`` is ``v @ W``. Products
of vectors are by entry. Arrays from outside start with step 1: x_t is ``x[t - 1]``. Parameters have PyTorch's
names, shapes and order of gates.

Errors, in every function: ValueError for an array of the wrong shape or an unknown option, TypeError for ids
that are not integers, IndexError for ids out of range, KeyError for a weight that is missing. T = 0 and B = 0
are allowed. Results are float64.

To port: docs/porting.md has the order of work, and vectors/ the values of this package at every step of it.

Examples
--------
>>> from pybptt import reference
>>> parameters = {"weight_ih_l0": [[1.0]] * 3, "weight_hh_l0": [[1.0]] * 3}  # gates r, z, n
>>> output, state, _, trace = reference.run("gru", parameters, [[[1.0]], [[0.0]]])
>>> output.ravel().round(4)
array([0.2048, 0.1633])
>>> g = reference.sweep(trace, [[[0.0]], [[1.0]]])
>>> g.hidden.ravel().round(4)
array([0.8406, 1.    ])
"""

from ._arrays import Array, Gradients, Parameters
from .activations import phi, phi_prime
from .clipping import clip_rows
from .four_ways import (
    Tape,
    backward,
    backward_two_loops,
    bptt,
    finite_differences,
    forward,
    forward_accumulation,
    loss_and_grad,
)
from .losses import _LOSSES as _LOSSES  # the tests' bounds of rounding errors take a loss apart
from .losses import cross_entropy, loss_and_upstream, mse, output_layer
from .network import Run, Trace, run, run_loss_and_grad, sweep
from .scan import linear_scan, linear_scan_backward
from .truncation import Window, tbptt_loss_and_grad, truncated_sweep, windows

__all__ = [
    "Array",
    "Gradients",
    "Parameters",
    "Run",
    "Tape",
    "Trace",
    "Window",
    "backward",
    "backward_two_loops",
    "bptt",
    "clip_rows",
    "cross_entropy",
    "finite_differences",
    "forward",
    "forward_accumulation",
    "linear_scan",
    "linear_scan_backward",
    "loss_and_grad",
    "loss_and_upstream",
    "mse",
    "output_layer",
    "phi",
    "phi_prime",
    "run",
    "run_loss_and_grad",
    "sweep",
    "tbptt_loss_and_grad",
    "truncated_sweep",
    "windows",
]


def __dir__() -> list[str]:
    return __all__
