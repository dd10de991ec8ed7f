"""Bad input to LSTM, GRU and stacks: the message begins with the argument's name, and nothing changes."""

import re

import numpy as np
import pytest
from cell_support import FEW, FLAGS, backward, forward, parts, problem, run
from support import bits

import pybptt

F32 = np.float32
X = np.zeros((5, 3, 4))
H0 = np.zeros((1, 3, 7))
KINDS = ("rnn", "lstm", "gru")


def raises(error, text):
    """For a message that begins with `text`, taken literally."""
    return pytest.raises(error, match="^" + re.escape(text))


# ---- Making a layer -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        ((0, 3), {}, ValueError, "input_size: expected at least 1, got 0"),
        ((3, -5), {}, ValueError, "hidden_size: expected at least 1, got -5"),
        ((3, 2, 0), {}, ValueError, "num_layers: expected at least 1, got 0"),
        ((3, 2, 1.0), {}, TypeError, "num_layers: expected an integer, got float"),
        ((3, 2, True), {}, TypeError, "num_layers: expected an integer, got bool"),
        ((3, 2), {"dropout": -0.1}, ValueError, "dropout: expected a number in [0, 1], got -0.1"),
        ((3, 2), {"dropout": 1.5}, ValueError, "dropout: expected a number in [0, 1], got 1.5"),
        ((3, 2), {"dropout": float("nan")}, ValueError, "dropout: expected a number in [0, 1], got nan"),
        ((3, 2), {"dropout": "half"}, TypeError, "dropout: expected a number in [0, 1], got str"),
        ((3, 2), {"dropout": None}, TypeError, "dropout: expected a number in [0, 1], got NoneType"),
        ((3, 2), {"clip": 0}, ValueError, "clip: expected a positive number or None, got 0"),
        ((3, 2), {"clip": -1.0}, ValueError, "clip: expected a positive number or None, got -1.0"),
        ((3, 2), {"clip": float("inf")}, ValueError, "clip: expected a positive number or None, got inf"),
        ((3, 2), {"clip": float("nan")}, ValueError, "clip: expected a positive number or None, got nan"),
        ((3, 2), {"clip": "5"}, TypeError, "clip: expected a positive number or None, got str"),
        ((3, 2), {"clip": True}, TypeError, "clip: expected a positive number or None, got bool"),
        ((3, 2), {"bias": "no"}, TypeError, "bias: expected True or False, got str"),
        ((3, 2), {"bidirectional": 2}, TypeError, "bidirectional: expected True or False, got int"),
        ((3, 2), {"seed": -1}, ValueError, "seed: expected at least 0, got -1"),
        ((3, 2), {"seed": "a"}, TypeError, "seed: expected an integer, got str"),
        ((3, 2), {"dtype": "float16"}, TypeError, "dtype: expected 'float32' or 'float64', got 'float16'"),
        ((3, 2**31), {}, MemoryError, ""),
    ],
)
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_bad_arguments_of_a_layer(kind, arguments, options, error, text):
    with raises(error, text):
        getattr(pybptt, kind)(*arguments, **options)


def test_options_belong_to_their_cell():
    for kind, names in (
        ("RNN", ("peephole", "coupled", "reset_after")),
        ("LSTM", ("nonlinearity", "reset_after")),
        ("GRU", ("nonlinearity", "peephole", "coupled")),
    ):
        for name in names:
            with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
                getattr(pybptt, kind)(2, 3, **{name: True})
        with pytest.raises(TypeError, match="positional"):
            getattr(pybptt, kind)(2, 3, 1, "tanh")


# ---- Input and state ------------------------------------------------------------------------------------

OR_INTEGERS = "x: expected dtype float64, or integers for token ids, got "
EITHER = "x: expected float64 of shape (T, B, D) with D = 4, or integers of shape (T, B) for token ids, got "
BAD_INPUT = [
    (X[0], ValueError, EITHER + "float64 of shape (3, 4); for token ids convert with x.astype(np.int64)"),
    (X[:, :, :3], ValueError, "x: expected shape (T, B, D) with D = 4, got (5, 3, 3)"),
    (np.zeros(5, int), ValueError, "x: expected token ids of shape (T, B), got shape (5,)"),
    (X.astype(F32), TypeError, OR_INTEGERS + "float32; convert with x.astype(np.float64)"),
    (
        X[:, :, 0] == 0,
        TypeError,
        EITHER + "bool of shape (5, 3); for token ids convert with x.astype(np.int64)",
    ),
    ([[0, 1]], TypeError, "x: expected a numpy array of float64 or integers, got list"),
    (np.array([[0, 1], [3, 4]]), IndexError, "x: expected ids in [0, 4), got 4 at [1, 1]"),
    (np.array([[0, 2], [-1, 4]]), IndexError, "x: expected ids in [0, 4), got -1 at [1, 0]"),
]
BAD_STATE = [
    (H0[0], ValueError, "expected shape (1, 3, 7), got (3, 7)"),
    (H0[:, :2], ValueError, "expected shape (1, 3, 7), got (1, 2, 7)"),
    (H0.astype(F32), TypeError, "expected dtype float64, got float32; convert with "),
    (H0.astype(int), TypeError, "expected dtype float64, got int64; convert with "),
    ([0.0], TypeError, "expected a numpy array of float64, got list"),
]
BAD_PAIRS = [
    (H0, "expected the pair (h, c), got ndarray"),
    ((H0,), "expected the pair (h, c), got 1 values"),
    ((H0, H0, H0), "expected the pair (h, c), got 3 values"),
    ({"h": H0, "c": H0}, "expected the pair (h, c), got dict"),
]


def assert_refused(cell, x, state, error, text):
    layer, inside = (problem(cell, 1, 1, 4, 7).layer for _ in range(2))
    model = pybptt.SequenceModel(inside, 6)
    before = bits(layer.flat, model.flat)
    y = np.zeros(np.shape(x)[:2], int)
    for call in (
        lambda: layer(x, state),
        lambda: layer.forward(x, state),
        lambda: model(x, state),
        lambda: model.loss(x, y, state),
        lambda: model.loss_and_grad(x, y, state),
    ):
        with raises(error, text):
            call()
    assert bits(layer.flat, model.flat) == before


@pytest.mark.parametrize("cell", KINDS)
@pytest.mark.parametrize(("x", "error", "text"), BAD_INPUT)
def test_bad_input(cell, x, error, text):
    assert_refused(cell, x, None, error, text)


@pytest.mark.parametrize(("state", "error", "text"), BAD_STATE)
def test_bad_states(state, error, text):
    for cell in ("rnn", "gru"):
        assert_refused(cell, X, state, error, f"state: {text}")
    assert_refused("lstm", X, (state, H0), error, f"state[0]: {text}")
    assert_refused("lstm", X, [H0, state], error, f"state[1]: {text}")


@pytest.mark.parametrize(("pair", "text"), BAD_PAIRS)
def test_the_state_of_an_lstm_is_a_pair(pair, text):
    assert_refused("lstm", X, pair, TypeError, f"state: {text}")
    p = problem("lstm", 5, 3, 4, 7)
    _, _, tape = forward(p)
    with raises(TypeError, f"d_state: {text}"):
        p.layer.backward(tape, d_state=pair)


def test_the_state_of_the_others_is_none():
    for cell in ("rnn", "gru"):
        text = "state: expected a numpy array of float64, got tuple"
        assert_refused(cell, X, (H0, H0), TypeError, text)


@pytest.mark.parametrize("cell", KINDS)
def test_the_state_of_a_stack_has_every_layer_and_direction(cell):
    p = problem(cell, 5, 3, 4, 7, 3, 2)
    with raises(
        ValueError, f"state{'[0]' if cell == 'lstm' else ''}: expected shape (6, 3, 7), got (3, 3, 7)"
    ):
        p.layer(p.x, tuple(part[:3] for part in p.state) if cell == "lstm" else p.state[:3])


# ---- Dropout's mask -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "error", "text"),
    [
        (np.ones((2, 5, 3, 7)), ValueError, "dropout_mask: expected shape (2, 5, 3, 14), got (2, 5, 3, 7)"),
        (np.ones((3, 5, 3, 14)), ValueError, "dropout_mask: expected shape (2, 5, 3, 14), got (3, 5, 3, 14)"),
        (np.ones((2, 3, 5, 14)), ValueError, "dropout_mask: expected shape (2, 5, 3, 14), got (2, 3, 5, 14)"),
        (np.ones((2, 5, 3, 14), F32), TypeError, "dropout_mask: expected dtype float64, got float32;"),
        (np.ones((2, 5, 3, 14), bool), TypeError, "dropout_mask: expected dtype float64, got bool;"),
        (1.0, TypeError, "dropout_mask: expected a numpy array of float64, got float"),
    ],
)
@pytest.mark.parametrize("cell", KINDS)
def test_bad_masks(cell, mask, error, text):
    p = problem(cell, 5, 3, 4, 7, 3, 2)
    with raises(error, text):
        p.layer.forward(p.x, dropout_mask=mask)
    model = pybptt.SequenceModel(p.layer, 6)
    before = bits(model.flat)
    with raises(error, text):
        model.loss_and_grad(p.x, np.zeros((5, 3), int), dropout_mask=mask)
    assert bits(model.flat) == before


def test_a_mask_is_time_major_even_with_batch_first():
    p = problem("gru", 5, 3, 4, 7, 2, batch_first=True)
    with raises(ValueError, "dropout_mask: expected shape (1, 5, 3, 7), got (1, 3, 5, 7)"):
        p.layer.forward(p.x.swapaxes(0, 1), dropout_mask=np.ones((1, 3, 5, 7)))


# ---- Backward -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", FEW)
@pytest.mark.parametrize("batch_first", FLAGS)
def test_bad_upstream(cell, batch_first):
    p = problem(cell, 5, 3, 4, 7, 2, 2, batch_first=batch_first)
    p.x = p.x.swapaxes(0, 1) if batch_first else p.x
    p.d_output = p.d_output.swapaxes(0, 1) if batch_first else p.d_output
    _, _, tape = forward(p)
    before = bits(backward(p, tape))
    right, wrong = p.d_output.shape, p.d_output.swapaxes(0, 1)
    bad = [
        ({"d_output": wrong}, ValueError, f"d_output: expected shape {right}, got {wrong.shape}"),
        ({"d_output": p.d_output[..., :-1]}, ValueError, f"d_output: expected shape {right}, got "),
        ({"d_output": p.d_output.astype(F32)}, TypeError, "d_output: expected dtype float64, got float32;"),
        ({"d_output": 1.0}, TypeError, "d_output: expected a numpy array of float64, got float"),
    ]
    h, *c = parts(p.d_state)
    one, name = (c[0], "d_state[1]") if c else (h, "d_state")
    for value, error, text in (
        (one[:2], ValueError, f"{name}: expected shape (4, 3, 7), got (2, 3, 7)"),
        (one.astype(F32), TypeError, f"{name}: expected dtype float64, got float32; convert with {name}"),
        (1.0, TypeError, f"{name}: expected a numpy array of float64, got float"),
    ):
        bad.append(({"d_state": (h, value) if c else value}, error, text))
    if p.d_cells is not None:
        shape = "d_cells: expected shape (4, 5, 3, 7), got "
        bad += [
            ({"d_cells": p.d_cells[:2]}, ValueError, shape + "(2, 5, 3, 7)"),
            ({"d_cells": p.d_cells.swapaxes(1, 2)}, ValueError, shape + "(4, 3, 5, 7)"),
            ({"d_cells": p.d_cells.astype(F32)}, TypeError, "d_cells: expected dtype float64, got float32;"),
            ({"d_cells": [1.0]}, TypeError, "d_cells: expected a numpy array of float64, got list"),
        ]
    for arguments, error, text in bad:
        with raises(error, text):
            p.layer.backward(tape, **arguments)
    assert bits(backward(p, tape)) == before


@pytest.mark.parametrize("cell", KINDS)
def test_bad_tapes(cell):
    p, q = problem(cell, 5, 3, 4, 7), problem(cell, 5, 3, 4, 7)
    _, _, tape = forward(p)
    with raises(ValueError, "tape: expected one from this layer's forward, got another layer's"):
        q.layer.backward(tape)
    with raises(TypeError, f"tape: expected a Tape from this layer's forward, got {type(p.layer).__name__}"):
        p.layer.backward(p.layer)


@pytest.mark.parametrize("cell", ["rnn", "gru"])
def test_only_an_lstm_has_cells(cell):
    p = problem(cell, 5, 3, 4, 7)
    with pytest.raises(TypeError, match="unexpected keyword argument 'cells'"):
        p.layer.forward(p.x, cells=True)
    _, _, tape = p.layer.forward(p.x)
    assert tape.cells is None
    with pytest.raises(TypeError, match="unexpected keyword argument 'd_cells'"):
        p.layer.backward(tape, d_cells=np.zeros((1, 5, 3, 7)))


# ---- Models ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", KINDS)
def test_bad_targets_of_a_ragged_batch(cell):
    """Places are those of the user's arrays; before a sequence's end an id counts, with last_only always."""
    p = problem(cell, 5, 3, 4, 7, 1, 2, tokens=True)
    model = pybptt.SequenceModel(p.layer, 6)
    before = bits(model.flat)
    y = np.zeros((5, 3), int)
    y[2, 0], y[3, 2] = 6, -1
    for call in (model.loss, model.loss_and_grad):
        with raises(IndexError, "y: expected ids in [0, 6), got 6 at [2, 0]"):
            call(p.x, y, lengths=[3, 5, 3])
        with raises(IndexError, "y: expected ids in [0, 6), got -1 at [3, 2]"):
            call(p.x, y, lengths=[2, 5, 4])
        call(p.x, y, lengths=[2, 5, 3])
    assert bits(model.flat) == before
    last = pybptt.SequenceModel(problem(cell, 5, 3, 4, 7).layer, 6, last_only=True)
    for call in (last.loss, last.loss_and_grad):
        with raises(IndexError, "y: expected ids in [0, 6), got 9 at [1]"):
            call(p.x, np.array([0, 9, 0]), lengths=[5, 0, 1])
        with raises(ValueError, "y: expected shape (3,), got (5, 3)"):
            call(p.x, y)
        with raises(ValueError, "x: expected at least one step, because last_only counts the last one"):
            call(p.x[:0], y[0], lengths=[0, 0, 0])


@pytest.mark.parametrize("cell", KINDS)
def test_a_model_that_is_refused_leaves_its_layer_alone(cell):
    layer = problem(cell, 1, 1, 4, 7, 2, 2).layer
    before, flat = bits(layer.flat), layer.flat
    for options, error in (({"loss": "hinge"}, ValueError), ({"reduction": "none"}, ValueError)):
        with pytest.raises(error):
            pybptt.SequenceModel(layer, 3, **options)
    with pytest.raises(MemoryError):
        pybptt.SequenceModel(layer, 2**60)
    assert layer.flat is flat
    assert bits(layer.flat) == before
    model = pybptt.SequenceModel(layer, 3)
    with raises(ValueError, "layer: expected one of its own, got a layer that belongs to another model"):
        pybptt.SequenceModel(model.layer, 3)
    with raises(TypeError, "layer: expected an RNN, an LSTM or a GRU, got pybptt.model.SequenceModel"):
        pybptt.SequenceModel(model, 3)


@pytest.mark.parametrize("cell", KINDS)
def test_arrays_of_any_layout_will_do(cell):
    """Views, Fortran order, read-only arrays, small and unsigned ids: the same as contiguous ones."""
    for tokens in FLAGS:
        p = problem(cell, 5, 3, 4, 7, 2, 2, tokens=tokens, mask=True)
        expected = run(p)
        p.x = np.asfortranarray(p.x.astype(np.uint8) if tokens else p.x)
        for name in ("d_output", "d_cells", "mask"):
            if getattr(p, name) is not None:
                setattr(p, name, np.asfortranarray(getattr(p, name)))
                getattr(p, name).flags.writeable = False
        p.state = tuple(map(np.asfortranarray, parts(p.state)))
        p.state = list(p.state) if cell == "lstm" else p.state[0]
        found = run(p)
        assert bits(found.output, found.state, found.g) == bits(expected.output, expected.state, expected.g)
