"""What a cell is to the network around it: the arithmetic of one time step, which knows nothing of time.

A state is an array (S, N, H) of N sequences: h alone, S = 1, or h and c, S = 2. Parameters have PyTorch's
names without the end that tells layer and direction: weight_ih, weight_hh, bias_ih, bias_hh, and what a cell
adds. All are there, in the order of `Cell.shapes`: biases that nobody gave are zero.
"""

from __future__ import annotations

from typing import Protocol

from ._arrays import Array

Shapes = dict[str, tuple[int, ...]]
Theta = dict[str, Array]
Kept = tuple[Array, ...]  # what a step back needs of the step forward


class Cell(Protocol):
    """One step forward and one step back."""

    @property
    def states(self) -> int:
        """S."""

    def shapes(self, D: int, H: int) -> Shapes:
        """Return the parameters' shapes, in their order."""

    def forward_step(self, theta: Theta, x: Array, state: Array) -> tuple[Array, Kept]:
        """Take x_t (N, D) and the state of step t - 1; return the state of step t, and what to keep."""

    def backward_step(self, theta: Theta, kept: Kept, d_state: Array) -> tuple[Array, Array, Theta]:
        """Take dh_t, or dh_t and dc_t through other ways than h_t; all total.

        Return dx_t, the part of the derivative by the state of step t - 1 that comes through step t, and what
        step t adds to the gradient of each parameter.
        """

    def tangent_step(self, theta: Theta, kept: Kept, v_state: Array) -> Array:
        """Take the direction in which the state of step t - 1 moves; return how that of step t moves.

        It is J_t v, where `backward_step` has J_t^T dh_t.
        """


def affine_shapes(G: int, D: int, H: int) -> Shapes:
    """Return the shapes of what every cell has, for G gates."""
    return {"weight_ih": (G * H, D), "weight_hh": (G * H, H), "bias_ih": (G * H,), "bias_hh": (G * H,)}
