"""A tape owns what it needs: nothing that happens after forward changes backward."""

import gc

import numpy as np
import pytest
from support import bits, layer_problem, run_layer

import pybptt

FLAGS = (False, True)


def backward(p, tape, scale=1.0):
    return p.rnn.backward(tape, scale * p.d_output, p.d_state, hidden=True)


@pytest.mark.parametrize("tokens", FLAGS)
@pytest.mark.parametrize("batch_first", FLAGS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_changes_after_forward_does_not_change_backward(tokens, batch_first, dtype):
    """All arrays are contiguous and of the core's dtype, so that the core could have kept pointers."""
    p = layer_problem(6, 6, 4, 16, tokens=tokens, batch_first=batch_first, dtype=dtype)
    output, last, tape = p.rnn.forward(p.x, p.state)
    before = backward(p, tape)
    for array in (output, last, p.state, p.rnn.flat):
        array += 1
    p.x[...] = p.x[::-1].copy()
    assert bits(backward(p, tape)) == bits(before)


def test_a_tape_may_be_used_again_and_in_any_order():
    p = layer_problem(7, 3, 4, 9)
    q = layer_problem(5, 8, 4, 9, seed=1)
    _, _, tape_p = p.rnn.forward(p.x, p.state)
    first = bits(backward(p, tape_p))
    other = bits(backward(p, tape_p, 3.0))
    _, _, tape_q = p.rnn.forward(q.x, q.state)  # the same layer, another shape
    p.rnn.backward(tape_q, q.d_output, q.d_state)
    assert bits(backward(p, tape_p)) == first
    p.rnn(q.x)
    assert bits(backward(p, tape_p, 3.0)) == other != first


def test_results_are_arrays_of_their_own():
    p = layer_problem(5, 3, 4, 9)
    output, last, tape = p.rnn.forward(p.x, p.state)
    kept = bits(output, last)
    g = backward(p, tape)
    kept_g = bits(g)
    p.rnn.forward(p.x + 1, p.state + 1)
    backward(p, tape, 2.0)
    assert bits(output, last) == kept
    assert bits(g) == kept_g
    given = [p.x, p.state, p.d_output, p.d_state, p.rnn.flat]
    arrays = [*given, output, last, g.flat, g.input, g.state, g.hidden]
    for i, a in enumerate(arrays):
        assert not any(np.shares_memory(a, b) for b in arrays[i + 1 :])


def test_a_tape_outlives_the_arrays_it_was_made_from():
    p = layer_problem(40, 8, 16, 32)
    expected = bits(run_layer(p)[2])
    rnn, x, state = p.rnn, p.x.copy(), p.state.copy()
    _, _, tape = rnn.forward(x, state)
    del x, state
    gc.collect()
    rubbish = [np.full(size, np.nan) for size in (40 * 8 * 16, 8 * 32, 40 * 8 * 32) for _ in range(20)]
    assert bits(backward(p, tape)) == expected
    del rubbish


def test_tapes_are_freed():
    """The core keeps freed memory for the next call, but no more of it for many tapes than for a few."""
    p = layer_problem(200, 64, 8, 64)  # 7.5 MB each

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    for _ in range(3):
        p.rnn.forward(p.x)
    before = resident()
    for _ in range(60):
        p.rnn.forward(p.x)
    assert resident() - before < 60e6  # 450 MB if they leaked


def test_a_layer_that_joins_a_model_keeps_its_tapes():
    p = layer_problem(5, 3, 4, 9)
    _, _, tape = p.rnn.forward(p.x, p.state)
    before = bits(backward(p, tape))
    model = pybptt.SequenceModel(p.rnn, 3, seed=1)
    model.flat += 1
    assert bits(backward(p, tape)) == before


def test_a_tape_says_what_it_is():
    p = layer_problem(640, 4, 5, 20, dtype="float32")
    _, _, tape = p.rnn.forward(p.x)
    assert (tape.steps, tape.batch) == (640, 4)
    # (T + T / S) B (H + D), S = 512 / B, H rounded up to 32 and D to 16; and W_hh, W_ih
    wanted = 4 * (645 * 4 * (32 + 16) + 20 * 32 + 20 * 16)
    assert abs(tape.nbytes - wanted) < 0.02 * wanted
    assert repr(tape) == f"Tape(steps=640, batch=4, nbytes={tape.nbytes})"
