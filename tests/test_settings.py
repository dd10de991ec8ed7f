"""Assignments that nothing would heed are errors, and so are arrays whose masks would be lost."""

import copy
import pickle

import numpy as np
import pytest

import pybptt
from pybptt import optim

X, Y = np.ones((5, 2, 3), np.float32), np.zeros((5, 2), np.int64)


def ones(*shape):
    return np.ones(shape, np.float32)


def a_model():
    return pybptt.SequenceModel(pybptt.LSTM(3, 4, num_layers=2, seed=0), 2, seed=1)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (7, ValueError, "dropout: expected a number in [0, 1], got 7"),
        (np.nan, ValueError, "dropout: expected a number in [0, 1], got nan"),
        ("0.5", TypeError, "dropout: expected a number in [0, 1], got str"),
    ],
)
def test_dropout_is_checked_when_it_is_assigned_too(value, error, text):
    layer = pybptt.LSTM(3, 4, 2, dropout=0.25)
    with pytest.raises(error) as raised:
        layer.dropout = value
    assert str(raised.value) == text
    assert layer.dropout == 0.25


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("droput", "LSTM has no attribute of this name to set; did you mean dropout?"),
        ("weight_hh_l0", "a parameter is set in place: parameters['weight_hh_l0'][:] = values"),
        ("bias_ih_l1", "a parameter is set in place: parameters['bias_ih_l1'][:] = values"),
        (
            "forward",
            "LSTM has no attribute of this name to set; it has batch_first, bias, bidirectional, clip,",
        ),
    ],
)
def test_a_layer_takes_no_attributes_that_it_has_not(name, text):
    layer = pybptt.LSTM(3, 4, 2)
    with pytest.raises(AttributeError) as raised:
        setattr(layer, name, 0.1)
    assert str(raised.value).startswith(f"{name}: {text}")
    assert name not in vars(layer)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("flatt", "SequenceModel has no attribute of this name to set; did you mean flat?"),
        ("loss", "SequenceModel has no attribute of this name to set; did you mean loss_name?"),
        (
            "dropout",
            "SequenceModel has no attribute of this name to set; it has dtype, extra, flat, ",
        ),
        ("weight_hh_l0", "a parameter is set in place: parameters['weight_hh_l0'][:] = values"),
    ],
)
def test_a_model_takes_no_attributes_that_it_has_not(name, text):
    model = a_model()
    with pytest.raises(AttributeError) as raised:
        setattr(model, name, 0.1)
    assert str(raised.value).startswith(f"{name}: {text}")


class Named(pybptt.GRU):
    """As users write them."""

    def __init__(self, name, *sizes):
        self.before = name
        super().__init__(*sizes, seed=0)
        self.name = name


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))]
)
def test_subclasses_may_have_attributes_of_their_own(copied):
    layer = copied(Named("a", 3, 4))
    layer.forward = layer.forward
    layer.anything = 3
    assert (layer.before, layer.name, layer.anything) == ("a", "a", 3)
    layer.flat = 2 * layer.flat
    with pytest.raises(AttributeError, match="weight_hh_l0: a parameter is set in place"):
        layer.weight_hh_l0 = 3
    with pytest.raises(ValueError, match="dropout"):
        layer.dropout = 2
    pybptt.SequenceModel(layer, 2).loss_and_grad(X, Y)


@pytest.mark.parametrize("optimiser", [optim.SGD, optim.Adam])
def test_an_optimiser_of_a_layer_that_went_into_a_model(optimiser):
    layer = pybptt.RNN(3, 4, seed=0)
    optimise, flat, weight = optimiser(layer.flat, lr=0.1), layer.flat, layer.parameters["weight_hh_l0"]
    model = pybptt.SequenceModel(layer, 2)
    with pytest.raises(ValueError, match="optimise model.flat instead"):
        optimise.step(np.ones_like(flat))
    with pytest.raises(ValueError, match="read-only"):
        flat -= 1
    with pytest.raises(ValueError, match="read-only"):
        weight[:] = 1
    before = model.flat.copy()
    optimiser(model.flat, lr=0.1).step(np.ones_like(before))
    layer.flat[:] += 1
    assert not np.isclose(model.flat, before).any()


def test_a_shallow_copy_that_goes_into_a_model_leaves_the_layer_as_it_is():
    layer = pybptt.RNN(3, 4, seed=0)
    model = pybptt.SequenceModel(copy.copy(layer), 2)
    before = model.flat.copy()
    optim.SGD(layer.flat, lr=0.1).step(np.ones_like(layer.flat))
    assert np.array_equal(model.flat, before)


MASKED = {
    "x": lambda m: a_model().loss_and_grad(m(X), Y),
    "x of ids": lambda m: a_model().layer.forward(m(Y)),
    "y": lambda m: a_model().loss_and_grad(X, m(Y)),
    "lengths": lambda m: a_model().loss_and_grad(X, Y, lengths=m(np.array([5, 3]))),
    "state": lambda m: pybptt.GRU(3, 4)(X, m(ones(1, 2, 4))),
    "d_output": lambda m: (r := pybptt.RNN(3, 4)).backward(r.forward(X)[2], m(ones(5, 2, 4))),
    "dropout_mask": lambda m: pybptt.RNN(3, 4, 2).forward(X, dropout_mask=m(ones(1, 5, 2, 4))),
    "flat": lambda m: setattr(model := a_model(), "flat", m(model.flat)),
    "mapping": lambda m: (r := pybptt.RNN(3, 4)).load_parameters({n: m(p) for n, p in r.parameters.items()}),
    "flat of optim": lambda m: optim.SGD(m(np.ones(3)), lr=0.1),
    "gradient": lambda m: optim.SGD(np.ones(3), lr=0.1).step(m(np.ones(3))),
    "gradient of clip": lambda m: pybptt.clip_by_norm(m(np.ones(3)), 1.0),
    "pi": lambda m: pybptt.RandomTruncation(m(np.full(5, 0.5))),
    "b": lambda m: pybptt.recurrence.linear_scan(m(np.ones(3)), np.ones(3)),
    "stream": lambda m: pybptt.data.sequential(m(np.arange(90)), batch_size=3, steps=10),
    "x of a stream": lambda m: next(iter(a_model().stream(m(X), Y, truncation=pybptt.TBPTT(2, 2)))),
    "U": lambda m: pybptt.bptt(m(np.ones((4, 3))), np.ones((3, 4)), np.ones((4, 4)), [0, 1], [1, 2]),
    "x to be reversed": lambda m: pybptt.onnx.reverse_sequences(m(X), lengths=[5, 5]),
}


@pytest.mark.parametrize("name", MASKED)
def test_masked_arrays_are_refused_by_name(name):
    with pytest.raises(
        TypeError, match=rf"^{name.split()[0]}\S*: expected an array without a mask"
    ) as raised:
        MASKED[name](lambda array: np.ma.masked_array(array, mask=array == 0))
    assert "filled(0)" in str(raised.value)


def test_other_kinds_of_arrays_are_what_they_hold(tmp_path):
    layer = pybptt.RNN(3, 4, seed=0)
    np.save(tmp_path / "x.npy", X)
    expected = layer(X)[0]
    mapped = layer(np.load(tmp_path / "x.npy", mmap_mode="r"))[0]
    assert type(mapped) is np.ndarray
    assert np.array_equal(mapped, expected)
    with pytest.warns(PendingDeprecationWarning):
        ids, weight = np.matrix(Y), np.matrix(layer.parameters["weight_hh_l0"])
    assert np.array_equal(layer(ids)[0], layer(Y)[0])
    layer.load_parameters({**layer.parameters, "weight_hh_l0": weight})
    assert np.array_equal(layer(X)[0], expected)
