"""Copies, pickled or not, are things of their own; and what a layer is made for stays as it is."""

import copy
import pickle

import numpy as np
import pytest

import pybptt

CELLS = [pybptt.RNN, pybptt.LSTM, pybptt.GRU]


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
@pytest.mark.parametrize("cell", CELLS)
def test_a_copied_layer_of_a_model_can_join_another(cell, copied):
    model = pybptt.SequenceModel(cell(3, 4, bidirectional=True, seed=0), 2, seed=1)
    other = pybptt.SequenceModel(copied(model.layer), 5, seed=2)
    before = model.flat.copy()
    other.flat[:] = 0
    assert np.array_equal(model.flat, before)
    with pytest.raises(ValueError, match="belongs to another model"):
        pybptt.SequenceModel(copied(model).layer, 2)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_a_copied_model_and_its_layer_share_memory(copied):
    model = copied(pybptt.SequenceModel(pybptt.LSTM(3, 4, seed=0), 2, seed=1))
    model.flat[:] = 7
    assert (model.layer.flat == 7).all()
    assert (model.layer.parameters["weight_hh_l0"] == 7).all()


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_a_copied_gradients_views_are_into_its_own_flat(copied):
    model = pybptt.SequenceModel(pybptt.GRU(3, 4, seed=0), 2, seed=1)
    gradients = model.loss_and_grad(np.array([[0], [2]]), np.array([[1], [0]]), hidden=True)[1]
    assert gradients.parameters  # made before the copy
    twin = copied(gradients)
    assert np.array_equal(twin.flat, gradients.flat)
    assert np.array_equal(twin.hidden, gradients.hidden)
    twin.parameters["bias_hh_l0"][:] = 7
    assert (twin.flat == 7).sum() == 12
    assert not (gradients.flat == 7).any()


@pytest.mark.parametrize(
    ("layer", "name", "value"),
    [
        (pybptt.GRU(3, 4), "reset_after", False),
        (pybptt.LSTM(3, 4), "clip", 0.01),
        (pybptt.LSTM(3, 4), "peephole", True),
        (pybptt.LSTM(3, 4), "proj_size", 2),
        (pybptt.RNN(3, 4), "bidirectional", True),
        (pybptt.RNN(3, 4), "hidden_size", 5),
        (pybptt.SequenceModel(pybptt.RNN(3, 4), 2), "last_only", True),
    ],
)
def test_what_the_core_was_told_cannot_be_changed(layer, name, value):
    before = getattr(layer, name)
    with pytest.raises(AttributeError, match=f"{name}: expected to stay {before!r}, got {value!r}"):
        setattr(layer, name, value)
    assert getattr(layer, name) == before
    twin = copy.deepcopy(layer)
    assert getattr(twin, name) == before


def test_dropout_can_be_changed():
    layer = pybptt.RNN(3, 4, 2)
    layer.dropout = 0.5
    x = np.ones((5, 2, 3), np.float32)
    assert not np.array_equal(layer.forward(x, training=True, seed=0)[0], layer(x)[0])


def test_what_cannot_be_allocated_is_named():
    with pytest.raises(MemoryError, match=r"an array of shape \(\d+,\) and dtype float32"):
        pybptt.LSTM(10**6, 10**7)
    with pytest.raises(MemoryError, match=r"an array of shape \(\d+,\) and dtype float64"):
        pybptt.SequenceModel(pybptt.RNN(2, 3, dtype="float64"), 10**15)
