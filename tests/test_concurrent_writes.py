"""Another thread writes to the arrays of a call: ids and lengths are copied before they are checked.

What is checked and used must be the same copy: otherwise these programs write out of bounds, or never end.
"""

import textwrap

import pytest
from support import run_python

ATTACK = """
import threading, time
import numpy as np
import pybptt

T, B, D, Q = 100, 16, 10, 7
pybptt.set_num_threads(1)

def attacked(call, array, low, high, seconds=2.0):
    # Calls while the last element turns from `low` to `high` and back; it may raise, and that is all.
    last = array.reshape(-1)[-1:]
    turns = np.array([high] * 2000 + [low] * 2000)
    often = np.lib.stride_tricks.as_strided(last, (10_000, len(turns)), (0, 0))
    stop = threading.Event()
    def write():
        while not stop.is_set():
            often[...] = turns  # without the GIL
    writer = threading.Thread(target=write)
    writer.start()
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                call()
            except (IndexError, ValueError) as error:
                assert "expected ids in [0, " in str(error) or "expected values in [0, " in str(error), error
    finally:
        stop.set()
        writer.join()

def model(cell="RNN", **options):
    layer = getattr(pybptt, cell)(D, 2, num_layers=3, seed=0, **options)
    return pybptt.SequenceModel(layer, Q, seed=1)

x, y, lengths = np.zeros((T, B), int), np.zeros((T, B), int), np.full(B, T)
"""

BAD = (1 << 40) + (1 << 29)
CASES = {
    "tokens": f"m = model(); attacked(lambda: m.loss_and_grad(x, y), x, 0, {BAD})",
    "classes": f"m = model(); attacked(lambda: m.loss(x, y), y, 0, {BAD})",
    "lengths": "m = model('LSTM'); attacked(lambda: m.loss_and_grad(x, y, lengths=lengths), lengths, 3, T)",
    "lengths, two directions": """
        layer = pybptt.GRU(D, 4, num_layers=2, bidirectional=True, seed=0)
        def call():
            output, state, tape = layer.forward(x, lengths=lengths)
            layer.backward(tape, output)
        attacked(call, lengths, 3, T)
    """,
    "rows of x that repeat": """
        # As many distinct rows as may be, or one more: each direction may find something else, but never
        # what lay in memory. All weights are 0, and so is all output.
        layer, other = (pybptt.LSTM(32, 2, bidirectional=True, seed=seed) for seed in (0, 1))
        layer.flat[...] = 0
        values = np.zeros((T, B, 32), np.float32)
        values.reshape(T * B, 32)[:, 0] = np.arange(T * B) % (T * B // 12)
        def call():
            other.forward(values)  # which leaves its own values in memory
            output, state, tape = layer.forward(values)
            assert (output == 0).all()
            layer.backward(tape, output)
        attacked(call, values, 0, 7)
    """,
    "the textbook's function": f"""
        U, V, W = np.ones((4, D)), np.ones((Q, 4)), np.ones((4, 4))
        flat = np.zeros(200_000, int)
        attacked(lambda: pybptt.bptt(U, V, W, flat, flat), flat, 0, {BAD})
    """,
}


@pytest.mark.parametrize("case", CASES)
def test_what_other_threads_write_is_never_used_unchecked(case):
    run_python(ATTACK + textwrap.dedent(CASES[case]), timeout=30)
