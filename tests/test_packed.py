"""Packed weights: the same bits as calls that pack, of the parameters as they were when they were packed."""

import threading

import numpy as np
import pytest
from support import bits

import pybptt

LAYERS = {
    "rnn": lambda **options: pybptt.RNN(5, 9, nonlinearity="relu", **options),
    "lstm": lambda **options: pybptt.LSTM(5, 17, peephole=True, clip=2.0, **options),
    "lstm, projected": lambda **options: pybptt.LSTM(5, 17, proj_size=9, **options),
    "gru": lambda **options: pybptt.GRU(5, 33, **options),
    "gru, reset before": lambda **options: pybptt.GRU(5, 7, reset_after=False, **options),
}
OPTIONS = [
    {},
    {"num_layers": 3, "bias": False},
    {"num_layers": 2, "bidirectional": True},
    {"batch_first": True},
    {"dtype": "float64"},
]


def flat_bits(*results):
    """Of arrays, states and gradients."""
    found = []
    for result in results:
        found += flat_bits(*result) if isinstance(result, tuple) else bits(result)
    return found


def batch(tokens, dtype, T=7, B=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(5, size=(T, B)) if tokens else rng.normal(size=(T, B, 5)).astype(dtype)


@pytest.mark.parametrize("cell", LAYERS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("tokens", [False, True])
def test_a_handle_gives_what_the_layer_gives(cell, options, tokens):
    layer = LAYERS[cell](seed=0, **options)
    x, lengths = batch(tokens, layer.dtype), [4, 7, 0] if not layer.batch_first else [2, 3, 1, 0, 3, 3, 2]
    expected = [*layer(x), *layer(x, lengths=lengths)]
    output, state, tape = layer.forward(x)
    g = layer.backward(tape, output, state, hidden=True)
    with layer.packed(tokens=tokens) as run:
        first = run(x)
        assert flat_bits(*first, *run(x, lengths=lengths)) == flat_bits(*expected)
        assert flat_bits(*run(x, first[1])) == flat_bits(*layer(x, first[1]))
        output, state, tape = run.forward(x)
    again = layer.backward(tape, output, state, hidden=True)  # the tape has its weights even now
    assert flat_bits(output, state, again.flat, again.hidden) == flat_bits(*expected[:2], g.flat, g.hidden)


@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("options", OPTIONS[:3], ids=str)
def test_a_models_handle_predicts_what_the_model_predicts(options, tokens, last_only):
    model = pybptt.SequenceModel(pybptt.LSTM(5, 17, seed=0, **options), 21, last_only=last_only, seed=1)
    x = batch(tokens, np.float32)
    with model.packed(tokens=tokens) as run:
        output, state = run(x)
        assert flat_bits(output, state) == flat_bits(*model(x))
        assert flat_bits(*run(x, state, lengths=[1, 7, 3])) == flat_bits(*model(x, state, lengths=[1, 7, 3]))


@pytest.mark.parametrize("tokens", [False, True])
def test_parameters_that_change_are_seen_after_repack(tokens):
    layer = pybptt.LSTM(5, 17, seed=0)
    model = pybptt.SequenceModel(pybptt.GRU(5, 17, seed=0), 4, seed=1)
    for network in (layer, model):
        x = batch(tokens, np.float32)
        run, before = network.packed(tokens=tokens), flat_bits(*network(x))
        network.flat *= 0.5
        assert flat_bits(*run(x)) == before != flat_bits(*network(x))
        run.repack()
        assert flat_bits(*run(x)) == flat_bits(*network(x))


def test_gradients_are_those_of_the_packed_weights():
    layer = pybptt.LSTM(5, 17, seed=0)
    x = batch(False, np.float32)
    output, _, tape = layer.forward(x)
    expected = layer.backward(tape, output).flat
    run = layer.packed()
    layer.flat *= 0.5
    output, _, tape = run.forward(x)
    assert bits(layer.backward(tape, output).flat) == bits(expected)


def test_dropout_and_large_vocabularies():
    layer = pybptt.GRU(3000, 8, 2, dropout=0.5, seed=0)
    x = np.random.default_rng(0).integers(3000, size=(9, 2))
    run = layer.packed(tokens=True)
    output, state, tape = run.forward(x, training=True, seed=3)
    expected = layer.forward(x, training=True, seed=3)
    assert flat_bits(output, state) == flat_bits(*expected[:2])
    assert bits(layer.backward(tape, output).flat) == bits(layer.backward(expected[2], output).flat)


def test_several_threads_use_one_handle():
    layer = pybptt.LSTM(5, 64, seed=0)
    xs = [batch(False, np.float32, T=1, B=1, seed=i) for i in range(4)]
    expected = [flat_bits(*layer(x)) for x in xs]
    run, wrong = layer.packed(), []

    def work(i):
        wrong.extend(n for n in range(300) if flat_bits(*run(xs[i])) != expected[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_a_handle_does_not_take():
    layer = pybptt.RNN(5, 4, seed=0)
    x, ids = batch(False, np.float32), batch(True, np.float32)
    with layer.packed() as run:
        for call in (run, run.forward):
            with pytest.raises(ValueError, match=r"x: expected dense input, .* packed\(tokens=True\)"):
                call(ids)
            with pytest.raises(ValueError, match=r"x: expected shape \(T, B, D\) with D = 5"):
                call(x[:, :, :3])
    with pytest.raises(ValueError, match=r"x: expected token ids, .* packed\(tokens=False\)"):
        layer.packed(tokens=True)(x)
    with pytest.raises(IndexError, match=r"x: expected ids in \[0, 5\), got 5"):
        layer.packed(tokens=True)(ids * 0 + 5)
    for call in (run, run.forward):
        with pytest.raises(ValueError, match="packed: expected a handle in use"):
            call(x)
    with pytest.raises(TypeError, match="tokens: expected True or False"):
        layer.packed(tokens=1)
