"""Sequences of different lengths in one batch: does this line of brackets close as it opened?

Each sequence is a line of brackets ( ) [ ] of 2 to 40 characters, balanced or with a single bracket replaced.
A bidirectional GRU reads the tokens; the output layer sees the final states of both directions, each at its
sequence's own end, whatever the longest sequence of the batch is. Guessing is right for half of the lines.

    python examples/ragged_sequences.py [--steps N]
"""

import argparse

import numpy as np

import pybptt

SYMBOLS = "()[]"


def balanced(rng: np.random.Generator, pairs: int) -> list[int]:
    """A balanced line of `pairs` pairs, as token ids."""
    line: list[int] = []
    open_ones: list[int] = []
    left = pairs
    while left or open_ones:
        if left and (not open_ones or rng.random() < 0.5):
            open_ones.append(2 * int(rng.integers(2)))
            line.append(open_ones[-1])
            left -= 1
        else:
            line.append(open_ones.pop() + 1)
    return line


def batch_of(rng: np.random.Generator, size: int) -> pybptt.data.RaggedBatch:
    """Tokens (T, B), classes (B,), 1 for balanced, and lengths (B,)."""
    lines = [balanced(rng, int(rng.integers(1, 21))) for _ in range(size)]
    classes = rng.integers(2, size=size)
    for line, is_balanced in zip(lines, classes, strict=True):
        if not is_balanced:
            place = int(rng.integers(len(line)))
            line[place] = (line[place] + int(rng.integers(1, 4))) % 4
    (batch,) = pybptt.data.ragged([np.array(line) for line in lines], size, targets=classes)
    return batch


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1500)
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    gru = pybptt.GRU(len(SYMBOLS), 48, bidirectional=True, seed=1)
    model = pybptt.SequenceModel(gru, output_size=2, last_only=True, seed=2)
    optimiser = pybptt.optim.Adam(model.flat, lr=3e-3)
    recent = []
    for step in range(1, args.steps + 1):
        batch = batch_of(rng, 64)
        loss, gradients, _ = model.loss_and_grad(batch.x, batch.y, lengths=batch.lengths)
        optimiser.step(pybptt.clip_by_norm(gradients, 1.0))
        recent.append(loss)
        if step % max(1, args.steps // 10) == 0:
            print(f"step {step:5d}: cross-entropy {np.mean(recent):.3f}")
            recent.clear()

    batch = batch_of(rng, 2000)
    logits, _ = model(batch.x, lengths=batch.lengths)
    print(f"right for {np.mean(logits.argmax(axis=1) == batch.y):.3f} of 2000 fresh lines")


if __name__ == "__main__":
    main()
