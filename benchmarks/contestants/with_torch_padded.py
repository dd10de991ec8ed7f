"""PyTorch on ragged batches without packing: the padding is computed like the rest, its gradients are zero.

This is right for what is asked here, one direction and no state at a sequence's end, and faster than a packed
sequence where the lengths are not too uneven; so it stands beside PyTorch's packed sequence, of which the
floors are asked.
"""

from __future__ import annotations

from dataclasses import replace

from rows import Problem, Row

from contestants import Gradients, Step, with_torch


class Contestant(with_torch.Contestant):
    def covers(self, row: Row) -> bool:
        return row.ragged

    def prepare(self, row: Row, problem: Problem) -> tuple[Step, Gradients]:
        return with_torch.prepare_layer(row, replace(problem, lengths=None))
