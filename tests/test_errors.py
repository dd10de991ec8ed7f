"""Bad input: which error, that it names the argument, what was expected and what came; nothing changes."""

import re

import numpy as np
import pytest
from support import bits, layer_problem, model_problem

import pybptt

F32, F64 = np.float32, np.float64


def raises(error, text):
    """For a message that begins with `text`, taken literally."""
    return pytest.raises(error, match="^" + re.escape(text))


def p_layer(**options):
    return layer_problem(5, 3, 4, 7, **options)


def p_model(**options):
    return model_problem(5, 3, 4, 7, 6, **options)


# ---- Layers ---------------------------------------------------------------------------------------------

OR_INTEGERS = "x: expected dtype float64, or integers for token ids, got "
EITHER = "x: expected float64 of shape (T, B, D) with D = 4, or integers of shape (T, B) for token ids, got "

# x and state of a float64 layer with D = 4, H = 7; T = 5, B = 3 where they are right
BAD_INPUT = [
    (np.zeros((5, 3)), None, ValueError,
     EITHER + "float64 of shape (5, 3); for token ids convert with x.astype(np.int64)"),
    (np.zeros((5, 3, 5)), None, ValueError, "x: expected shape (T, B, D) with D = 4, got (5, 3, 5)"),
    (np.zeros((5, 3, 0)), None, ValueError, "x: expected shape (T, B, D) with D = 4, got (5, 3, 0)"),
    (np.zeros((5, 3, 4, 1)), None, ValueError, "x: expected shape (T, B, D) with D = 4, got (5, 3, 4, 1)"),
    (np.zeros(()), None, ValueError, "x: expected shape (T, B, D) with D = 4, got ()"),
    (np.zeros(5, int), None, ValueError, "x: expected token ids of shape (T, B), got shape (5,)"),
    (np.zeros((5, 3, 4), int), None, ValueError, "x: expected token ids of shape (T, B), got shape (5, 3, 4"
     "); if they are vectors, convert with x.astype(np.float64)"),
    (np.zeros((5, 3, 4), F32), None, TypeError,
     OR_INTEGERS + "float32; convert with x.astype(np.float64)"),
    (np.zeros((5, 3, 4), ">f8"), None, TypeError, OR_INTEGERS + ">f8;"),
    (np.zeros((5, 3, 4), complex), None, TypeError, OR_INTEGERS + "complex128;"),
    (np.zeros((5, 3), bool), None, TypeError,
     EITHER + "bool of shape (5, 3); for token ids convert with x.astype(np.int64)"),
    (np.zeros((5, 3), F32), None, TypeError,
     EITHER + "float32 of shape (5, 3); for token ids convert with x.astype(np.int64)"),
    (np.zeros((5, 3, 4), bool), None, TypeError, OR_INTEGERS + "bool; convert with x.astype(np.float64)"),
    (np.full((5, 3), "a"), None, TypeError,
     EITHER + "<U1 of shape (5, 3); for token ids pybptt.data.Vocabulary makes ids of text"),
    (np.full(5, "a", object), None, TypeError,
     EITHER + "object of shape (5,); for token ids pybptt.data.Vocabulary makes ids of text"),
    ([[0, 1]], None, TypeError,
     "x: expected a numpy array of float64 or integers, got list; convert with np.asarray(x)"),
    (None, None, TypeError, "x: expected a numpy array of float64 or integers, got NoneType"),
    (np.array([[0, 1, 2], [3, 4, 0]]), None, IndexError, "x: expected ids in [0, 4), got 4 at [1, 1]"),
    (np.array([[0, 1, 2], [3, 0, -1]]), None, IndexError, "x: expected ids in [0, 4), got -1 at [1, 2]"),
    (np.array([[0, 300]], np.uint16), None, IndexError, "x: expected ids in [0, 4), got 300 at [0, 1]"),
    (np.array([[0], [2**63]], "Q"), None, IndexError, f"x: expected ids in [0, 4), got {2**63} at [1, 0]"),
    (np.zeros((5, 3, 4)), np.zeros((3, 7)), ValueError, "state: expected shape (1, 3, 7), got (3, 7)"),
    (np.zeros((5, 3, 4)), np.zeros((1, 2, 7)), ValueError, "state: expected shape (1, 3, 7), got (1, 2, 7)"),
    (np.zeros((5, 3), int), np.zeros((1, 3, 6)), ValueError, "state: expected shape (1, 3, 7), got (1, 3, 6"),
    (np.zeros((5, 3, 4)), np.zeros((1, 3, 7), F32), TypeError,
     "state: expected dtype float64, got float32; convert with state.astype(np.float64)"),
    (np.zeros((5, 3, 4)), np.zeros((1, 3, 7), int), TypeError, "state: expected dtype float64, got int64;"),
    (np.zeros((5, 3, 4)), [0.0], TypeError, "state: expected a numpy array of float64, got list"),
]  # fmt: skip


@pytest.mark.parametrize(("x", "state", "error", "text"), BAD_INPUT)
def test_bad_input(x, state, error, text):
    rnn, model = p_layer().rnn, p_model().model
    before = bits(rnn.flat, model.flat)
    y = np.zeros(np.shape(x)[:2], int)
    for call in (
        lambda: rnn(x, state),
        lambda: rnn.forward(x, state),
        lambda: model(x, state),
        lambda: model.loss(x, y, state),
        lambda: model.loss_and_grad(x, y, state),
    ):
        with raises(error, text):
            call()
    assert bits(rnn.flat, model.flat) == before


def test_bad_input_with_batch_first():
    """Shapes and places are those of the user's arrays."""
    rnn = p_layer(batch_first=True).rnn
    with raises(ValueError, "x: expected shape (B, T, D) with D = 4, got (3, 5, 3)"):
        rnn(np.zeros((3, 5, 3)))
    with raises(ValueError, "x: expected token ids of shape (B, T), got shape (3,)"):
        rnn(np.zeros(3, int))
    with raises(ValueError, "state: expected shape (1, 3, 7), got (1, 5, 7)"):
        rnn(np.zeros((3, 5, 4)), np.zeros((1, 5, 7)))
    ids = np.zeros((3, 5), int)
    ids[1, 4] = 9
    with raises(IndexError, "x: expected ids in [0, 4), got 9 at [1, 4]"):
        rnn.forward(ids)
    _, _, tape = rnn.forward(np.zeros((3, 5, 4)))
    with raises(ValueError, "d_output: expected shape (3, 5, 7), got (5, 3, 7)"):
        rnn.backward(tape, np.zeros((5, 3, 7)))
    model = p_model(batch_first=True).model
    x, y = np.zeros((3, 5), int), np.zeros((3, 5), int)
    with raises(ValueError, "y: expected shape (3, 5), got (5, 3)"):
        model.loss_and_grad(x, y.T)
    y[2, 3] = 6
    for call in (model.loss, model.loss_and_grad):
        with raises(IndexError, "y: expected ids in [0, 6), got 6 at [2, 3]"):
            call(x, y)
        with raises(IndexError, "x: expected ids in [0, 4), got 9 at [1, 4]"):
            call(ids, x)


BAD_UPSTREAM = [
    (np.zeros((5, 3, 6)), None, ValueError, "d_output: expected shape (5, 3, 7), got (5, 3, 6)"),
    (np.zeros((3, 5, 7)), None, ValueError, "d_output: expected shape (5, 3, 7), got (3, 5, 7)"),
    (np.zeros((5, 3, 7), F32), None, TypeError,
     "d_output: expected dtype float64, got float32; convert with d_output.astype(np.float64)"),
    (1.0, None, TypeError, "d_output: expected a numpy array of float64, got float"),
    (None, np.zeros((3, 7)), ValueError, "d_state: expected shape (1, 3, 7), got (3, 7)"),
    (np.zeros((5, 3, 7)), np.zeros((1, 3, 7), int), TypeError, "d_state: expected dtype float64, got int64;"),
]  # fmt: skip


@pytest.mark.parametrize(("d_output", "d_state", "error", "text"), BAD_UPSTREAM)
def test_bad_upstream(d_output, d_state, error, text):
    p = p_layer()
    _, _, tape = p.rnn.forward(p.x)
    with raises(error, text):
        p.rnn.backward(tape, d_output, d_state)


def test_bad_tapes():
    p, q = p_layer(), p_layer()
    _, _, tape = p.rnn.forward(p.x)
    with raises(ValueError, "tape: expected one from this layer's forward, got another layer's"):
        q.rnn.backward(tape)
    for thing, name in ((None, "NoneType"), (p.x, "ndarray"), (p.rnn, "RNN")):
        with raises(TypeError, f"tape: expected a Tape from this layer's forward, got {name}"):
            p.rnn.backward(thing)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        ((0, 3), {}, ValueError, "input_size: expected at least 1, got 0"),
        ((3, 0), {}, ValueError, "hidden_size: expected at least 1, got 0"),
        ((3, -5), {}, ValueError, "hidden_size: expected at least 1, got -5"),
        ((3.0, 2), {}, TypeError, "input_size: expected an integer, got float"),
        ((3, "2"), {}, TypeError, "hidden_size: expected an integer, got str"),
        ((True, 2), {}, TypeError, "input_size: expected an integer, got bool"),
        ((3, 2, 2**63 - 1), {}, ValueError, "num_layers: expected at most 10000, got 9223372036854775807"),
        ((3, 2), {"nonlinearity": "gelu"}, ValueError,
         "nonlinearity: expected one of tanh, relu, sigmoid, identity, got 'gelu'"),
        ((3, 2), {"nonlinearity": None}, ValueError, "nonlinearity: expected one of tanh, relu, "),
        ((3, 2), {"dtype": "float16"}, TypeError, "dtype: expected 'float32' or 'float64', got 'float16'"),
        ((3, 2), {"dtype": "int64"}, TypeError, "dtype: expected 'float32' or 'float64', got 'int64'"),
        ((3, 2), {"dtype": "nonsense"}, TypeError, "dtype: expected 'float32' or 'float64', got 'nonsense'"),
        ((3, 2), {"dtype": ">f4"}, TypeError, "dtype: expected 'float32' or 'float64', got '>f4'"),
    ],
)  # fmt: skip
def test_bad_arguments_of_a_layer(arguments, options, error, text):
    with raises(error, text):
        pybptt.RNN(*arguments, **options)


class Table:
    """A data frame, as far as NumPy is concerned."""

    def __array__(self, dtype=None, copy=None):
        return np.zeros((5, 3), int)


def test_what_numpy_can_read_is_told_how():
    rnn = p_layer().rnn
    with raises(
        TypeError, "x: expected a numpy array of float64 or integers, got Table; convert with np.asarray(x)"
    ):
        rnn(Table())
    rnn(np.asarray(Table()))
    for thing in (3, None, "text", {}):
        with raises(TypeError, "x: expected a numpy array of float64 or integers, got ") as raised:
            rnn(thing)
        assert "asarray" not in str(raised.value)
    torch = pytest.importorskip("torch", reason="tensors are its own")
    for tensor in (
        torch.zeros(5, 3, 4, dtype=torch.float64),
        torch.zeros(5, 3, 4, requires_grad=True).double(),
    ):
        with raises(
            TypeError,
            "x: expected a numpy array of float64 or integers, got Tensor; convert with "
            "np.asarray(x.detach())",
        ):
            rnn(tensor)
        rnn(np.asarray(tensor.detach()))


@pytest.mark.parametrize("cell", [pybptt.RNN, pybptt.LSTM, pybptt.GRU])
def test_dropout_with_one_layer_is_warned_of(cell):
    text = (
        "dropout: expected 0 for a single layer, because it acts between layers; got 0.5 with num_layers = 1"
    )
    with pytest.warns(UserWarning, match=text) as caught:
        cell(3, 4, dropout=0.5)
    assert caught[0].filename == __file__
    cell(3, 4, 2, dropout=0.5)


def test_dtypes_may_be_given_in_numpys_ways():
    for dtype in ("float64", F64, np.dtype(F64), float, "d"):
        assert pybptt.RNN(2, 3, dtype=dtype).flat.dtype == F64
    assert pybptt.RNN(np.int16(2), np.uint8(3)).dtype == F32


def test_bad_values_for_flat():
    for owner in (p_layer().rnn, p_model().model):
        before, size = bits(owner.flat), owner.flat.size
        with raises(ValueError, f"flat: expected shape ({size},), got ({size - 1},)"):
            owner.flat = np.zeros(size - 1)
        with raises(
            TypeError, "flat: expected dtype float64, got float32; convert with flat.astype(np.float64)"
        ):
            owner.flat = np.zeros(size, F32)
        with raises(TypeError, "flat: expected a numpy array of float64, got float"):
            owner.flat = 0.0
        assert bits(owner.flat) == before


# ---- Models ---------------------------------------------------------------------------------------------

X = np.zeros((5, 3), int)
INTEGERS = "y: expected integer class ids, got "
ONE_HOT = (
    "y: expected integer class ids of shape (5, 3), got %s of shape (5, 3, 6); if it is one-hot, "
    "convert with y.argmax(axis=-1)"
)


@pytest.mark.parametrize(
    ("options", "y", "error", "text"),
    [
        ({}, np.zeros((5, 2), int), ValueError, "y: expected shape (5, 3), got (5, 2)"),
        ({}, np.zeros(3, int), ValueError, "y: expected shape (5, 3), got (3,)"),
        ({}, np.zeros((5, 3, 6), int), ValueError, ONE_HOT % "int64"),
        ({}, np.zeros((5, 3, 6)), ValueError, ONE_HOT % "float64"),
        ({}, np.zeros((5, 3, 6), bool), ValueError, ONE_HOT % "bool"),
        ({}, np.zeros((5, 3, 5), int), ValueError, "y: expected shape (5, 3), got (5, 3, 5)"),
        ({"last_only": True}, np.zeros((3, 6)), ValueError, "y: expected integer class ids of shape (3,)"),
        ({}, X * 1.0, TypeError, INTEGERS + "float64; convert with y.astype(np.int64)"),
        ({}, X == 0, TypeError, INTEGERS + "bool; convert with y.astype(np.int64)"),
        ({}, np.full((5, 3), "a"), TypeError, INTEGERS + "<U1; pybptt.data.Vocabulary makes ids of text"),
        ({}, [[0]], TypeError, "y: expected a numpy array of integers, got list; convert with np.asarray(y)"),
        ({}, X + 6, IndexError, "y: expected ids in [0, 6), got 6 at [0, 0]"),
        ({}, X - np.eye(5, 3, dtype=int), IndexError, "y: expected ids in [0, 6), got -1 at [0, 0]"),
        ({"last_only": True}, X, ValueError, "y: expected shape (3,), got (5, 3)"),
        ({"last_only": True}, np.array([0, 5, 6]), IndexError, "y: expected ids in [0, 6), got 6 at [2]"),
        ({"loss": "mse"}, np.zeros((5, 3)), ValueError, "y: expected shape (5, 3, 6), got (5, 3)"),
        ({"loss": "mse"}, X, TypeError, "y: expected dtype float64, got int64; convert with y.ast"),
        ({"loss": "mse", "last_only": True}, np.zeros((5, 6)), ValueError, "y: expected shape (3, 6), got"),
    ],
)  # fmt: skip
def test_bad_targets(options, y, error, text):
    model = p_model(**options).model
    before = bits(model.flat)
    for call in (model.loss, model.loss_and_grad):
        with raises(error, text):
            call(X, y)
    assert bits(model.flat) == before


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_no_last_step(loss):
    p = model_problem(0, 3, 4, 7, 6, last_only=True, loss=loss)
    text = "x: expected at least one step, because last_only counts the last one; got T = 0"
    for call in (
        lambda: p.model(p.x),
        lambda: p.model.loss(p.x, p.y),
        lambda: p.model.loss_and_grad(p.x, p.y),
    ):
        with raises(ValueError, text):
            call()


@pytest.mark.parametrize(
    ("output_size", "options", "error", "text"),
    [
        (0, {}, ValueError, "output_size: expected at least 1, got 0"),
        (2.0, {}, TypeError, "output_size: expected an integer, got float"),
        (2, {"loss": "hinge"}, ValueError, "loss: expected one of cross_entropy, mse, got 'hinge'"),
        (2, {"reduction": "none"}, ValueError, "reduction: expected one of mean, sum, got 'none'"),
        (2**60, {}, MemoryError, ""),
    ],
)
def test_a_model_that_is_refused_leaves_its_layer_alone(output_size, options, error, text):
    rnn = p_layer().rnn
    before, flat = bits(rnn.flat), rnn.flat
    with raises(error, text):
        pybptt.SequenceModel(rnn, output_size, **options)
    assert rnn.flat is flat
    assert bits(rnn.flat) == before
    pybptt.SequenceModel(rnn, 3)


def test_a_layer_belongs_to_one_model():
    model = p_model().model
    with raises(ValueError, "layer: expected one of its own, got a layer that belongs to another model"):
        pybptt.SequenceModel(model.layer, 3)
    with raises(TypeError, "layer: expected an RNN, an LSTM or a GRU, got pybptt.model.SequenceModel"):
        pybptt.SequenceModel(model, 3)


# ---- Functions ------------------------------------------------------------------------------------------

U, V, W, IDS = np.zeros((7, 4)), np.zeros((6, 7)), np.zeros((7, 7)), np.array([0, 1, 2, 3, 0])


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"U": np.zeros(7)}, ValueError, "U: expected a matrix, got shape (7,)"),
        ({"V": np.zeros((6, 8))}, ValueError, "V: expected shape (6, 7), got (6, 8)"),
        ({"W": np.zeros((7, 6))}, ValueError, "W: expected shape (7, 7), got (7, 6)"),
        ({"U": np.zeros((8, 4))}, ValueError, "V: expected shape (6, 8), got (6, 7)"),
        ({"U": U.astype(int)}, TypeError, "U: expected dtype float32 or float64, got int64; convert with U."),
        ({"U": U.astype(F32)}, TypeError, "V: expected dtype float32, got float64; convert with V.ast"),
        ({"W": W.astype(F32)}, TypeError, "W: expected dtype float64, got float32; convert with W.ast"),
        ({"V": [[0.0]]}, TypeError, "V: expected a numpy array of float32 or float64, got list"),
        ({"x": IDS[:, None]}, ValueError, "x: expected shape (T,), got (5, 1)"),
        ({"y": IDS[:, None]}, ValueError, "y: expected shape (T,), got (5, 1)"),
        ({"y": IDS[1:]}, ValueError, "y: expected shape (5,), that of x, got (4,)"),
        ({"x": IDS * 1.0}, TypeError, "x: expected integers, got float64; convert with x.astype(np.int64)"),
        ({"y": [0, 1]}, TypeError, "y: expected a numpy array of integers, got list"),
        ({"x": IDS + 1}, IndexError, "x: expected ids in [0, 4), got 4 at [3]"),
        ({"y": IDS - 1}, IndexError, "y: expected ids in [0, 6), got -1 at [0]"),
        ({"bptt_truncate": -1}, ValueError, "bptt_truncate: expected at least 0, got -1"),
        ({"bptt_truncate": 1.0}, TypeError, "bptt_truncate: expected an integer, got float"),
        ({"bptt_truncate": True}, TypeError, "bptt_truncate: expected an integer, got bool"),
    ],
)  # fmt: skip
def test_bad_arguments_of_bptt(change, error, text):
    arguments = {"U": U, "V": V, "W": W, "x": IDS, "y": IDS}
    with raises(error, text):
        pybptt.bptt(**arguments | change)


@pytest.mark.parametrize(
    ("n", "error", "text"),
    [
        (0, ValueError, "n: expected a number of threads from 1 to 1024, got 0"),
        (-1, ValueError, "n: expected a number of threads from 1 to 1024, got -1"),
        (1025, ValueError, "n: expected a number of threads from 1 to 1024, got 1025"),
        (2**70, ValueError, "n: expected a number of threads from 1 to 1024, got"),
        (2.0, TypeError, "n: expected an integer number of threads, got float"),
        ("2", TypeError, "n: expected an integer number of threads, got str"),
        (True, TypeError, "n: expected an integer number of threads, got bool"),
    ],
)
def test_bad_numbers_of_threads(n, error, text):
    before = pybptt.get_num_threads()
    with raises(error, text):
        pybptt.set_num_threads(n)
    assert pybptt.get_num_threads() == before


@pytest.mark.parametrize(
    ("gradient", "max_norm", "error", "text"),
    [
        ([1.0], 1.0, TypeError, "gradient: expected a numpy array of floating-point numbers, got list"),
        (
            np.ones(2, int),
            1.0,
            TypeError,
            "gradient: expected a numpy array of floating-point numbers, got int64",
        ),
        (np.ones(2), 0.0, ValueError, "max_norm: expected a positive number, got 0.0"),
        (np.ones(2), -1.0, ValueError, "max_norm: expected a positive number, got -1.0"),
        (np.ones(2), np.nan, ValueError, "max_norm: expected a positive number, got nan"),
    ],
)
def test_bad_arguments_of_clip_by_norm(gradient, max_norm, error, text):
    with raises(error, text):
        pybptt.clip_by_norm(gradient, max_norm)


# ---- Sizes ----------------------------------------------------------------------------------------------


def test_sizes_that_can_not_be_allocated():
    """Whether an address can hold them or not. Those that only exceed the memory are in test_processes.py."""
    for D, H in ((2**40, 2**40), (10**7, 10**7), (2**70, 1), (1, 2**31), (2**62, 1)):
        with pytest.raises(MemoryError):
            pybptt.RNN(D, H)
    rnn, model = p_layer(dtype="float32").rnn, p_model().model
    for shape in ((2**45, 1), (1, 2**45)):
        ids = np.broadcast_to(np.int64(0), shape)
        for call in (rnn, rnn.forward, model, lambda x: model.loss_and_grad(x, x)):
            with pytest.raises(MemoryError):
                call(ids)
    # No steps, but so many sequences that their states have no place.
    rnn = pybptt.RNN(1, 1024)
    for B in (2**40, 2**52, 2**56, 2**59):
        with pytest.raises(MemoryError):
            rnn(np.zeros((0, B), np.int8))
