"""What a cell is to the network around it: the arithmetic of one time step, which knows nothing of time.

The states of N sequences are a tuple of arrays: h (N, P) alone, or h and c (N, H). P is H but for a projected
LSTM. Parameters have PyTorch's names without the end that tells layer and direction: weight_ih, weight_hh,
bias_ih, bias_hh, and what a cell adds. All are there, in the order of `Cell.shapes`: biases that nobody gave
are zero.
"""

from __future__ import annotations

from typing import Protocol

from ._arrays import Array

Shapes = dict[str, tuple[int, ...]]
Theta = dict[str, Array]
States = tuple[Array, ...]  # h; or h, c
Kept = tuple[Array, ...]  # what a step back needs of the step forward
Back = tuple[Array, States, Theta, dict[str, Array]]  # what a step back returns


class Cell(Protocol):
    """One step forward and one step back."""

    @property
    def gates(self) -> int:
        """G."""

    def sizes(self, H: int) -> tuple[int, ...]:
        """Return how many entries each state of a sequence has: P; or P, H."""

    @property
    def kept(self) -> tuple[str, ...]:
        """The names of what `forward_step` keeps, in its order."""

    def shapes(self, D: int, H: int) -> Shapes:
        """Return the parameters' shapes, in their order."""

    def forward_step(self, theta: Theta, x: Array, states: States) -> tuple[States, Kept]:
        """Take x_t (N, D) and the states of step t - 1; return the states of step t, and what to keep."""

    def backward_step(self, theta: Theta, kept: Kept, d_states: States) -> Back:
        """Take dh_t, or dh_t and dc_t through other ways than h_t; all total.

        Return dx_t, the part of the derivatives by the states of step t - 1 that comes through step t, what
        step t adds to the gradient of each parameter, and by name dz_t and the other derivatives on the way.
        """

    def tangent_step(self, theta: Theta, kept: Kept, v_states: States) -> States:
        """Take the direction in which the states of step t - 1 move; return how those of step t move.

        It is J_t v, where `backward_step` has J_t^T dh_t.
        """


def affine_shapes(G: int, D: int, H: int, P: int) -> Shapes:
    """Return the shapes of what every cell has, for G gates of H entries that read h of P."""
    return {"weight_ih": (G * H, D), "weight_hh": (G * H, P), "bias_ih": (G * H,), "bias_hh": (G * H,)}
