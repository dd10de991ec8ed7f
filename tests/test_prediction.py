"""generate, predict_proba and accuracy, against PyTorch's softmax and loops over whole calls."""

import numpy as np
import pytest
import torch
from support import bits

import pybptt

CELLS = (pybptt.RNN, pybptt.LSTM, pybptt.GRU)


def make(cell=pybptt.LSTM, D=5, Q=5, loss="cross_entropy", last_only=False, **options):
    layer = cell(D, 8, seed=0, **options)
    model = pybptt.SequenceModel(layer, Q, loss=loss, last_only=last_only, seed=1)
    model.flat *= 8  # so that the tokens differ in likelihood, and one is not always the likeliest
    model.parameters["output.bias"][:] = 0
    return model


@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_probabilities_and_accuracy(dtype, cell, batch_first, last_only):
    model = make(cell, batch_first=batch_first, last_only=last_only, dtype=dtype)
    rng = np.random.default_rng(0)
    x, lengths = rng.integers(5, size=(3, 7) if batch_first else (7, 3)), np.array([7, 2, 4])
    y = rng.integers(5, size=3) if last_only else rng.integers(5, size=x.shape)
    for given in (None, lengths):
        output, state = model(x, lengths=given)
        p, final = model.predict_proba(x, lengths=given)
        assert p.dtype == dtype
        assert bits(*np.atleast_1d(final)) == bits(*np.atleast_1d(state))
        expected = torch.softmax(torch.from_numpy(np.ascontiguousarray(output)), -1).numpy()
        counted = np.ones(y.shape, bool)
        if given is not None and not last_only:
            counted = np.arange(7)[:, None] < given
            counted = counted.T if batch_first else counted
        np.testing.assert_allclose(p, np.where(counted[..., None], expected, 0), rtol=1e-6, atol=0)
        accuracy, final = model.accuracy(x, y, lengths=given)
        assert accuracy == pytest.approx((output.argmax(-1) == y)[counted].mean())
        assert last_only or 0 < accuracy < 1
        assert bits(*np.atleast_1d(final)) == bits(*np.atleast_1d(state))


def test_probabilities_of_large_outputs():
    model = make()
    model.flat *= 1e20
    p, _ = model.predict_proba(np.array([[0], [3]]))
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p.sum(axis=-1), 1)
    assert model.accuracy(np.zeros((0, 2), int), np.zeros((0, 2), int))[0] == 0


def in_whole_calls(model, prompt, steps):
    """The likeliest tokens, the whole sequence read anew for each, time-major."""
    for _ in range(steps):
        output, _ = model(prompt)
        token = output.argmax(-1) if model.last_only else output[-1].argmax(-1)
        prompt = np.vstack([prompt, token[None]])
    return prompt[len(prompt) - steps :]


@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_the_likeliest_tokens(cell, last_only):
    model = make(cell, num_layers=2, last_only=last_only)
    prompt = np.random.default_rng(3).integers(5, size=(4, 6))
    written = model.generate(prompt, 12, temperature=0)
    assert written.dtype == np.int64
    np.testing.assert_array_equal(written, in_whole_calls(model, prompt, 12))
    for b in range(6):
        np.testing.assert_array_equal(model.generate(prompt[:, b], 12, temperature=0), written[:, b])
    assert len({tuple(column) for column in written.T}) > 1
    turned = make(cell, num_layers=2, last_only=last_only, batch_first=True)
    np.testing.assert_array_equal(turned.generate(prompt.T, 12, temperature=0), written.T)
    np.testing.assert_array_equal(turned.generate(prompt[:, 0], 12, temperature=0), written[:, 0])
    lengths = np.array([4, 1, 2, 3, 4, 1])
    for some, x in ((model, prompt), (turned, prompt.T)):
        ragged = some.generate(x, 12, temperature=0, lengths=lengths)
        ragged = ragged if some is model else ragged.T
        for b, T in enumerate(lengths):
            alone = model.generate(prompt[:T, b], 12, temperature=0)
            np.testing.assert_array_equal(ragged[:, b], alone)
    assert model.generate(prompt, 0).shape == (0, 6)
    for temperature in (0, 1):
        assert model.generate(prompt[:, :0], 3, temperature=temperature).shape == (3, 0)


@pytest.mark.parametrize(("temperature", "suppressed"), [(1.0, []), (0.5, [0]), (2.0, [4, 1])])
def test_draws_follow_the_distribution(temperature, suppressed):
    """Tokens that do not depend on the past: W of the output is 0, its bias the logarithm of p."""
    model = make(pybptt.RNN)
    p = np.array([0.3, 0.1, 0.05, 0.35, 0.2])
    model.parameters["output.weight"][:] = 0
    model.parameters["output.bias"][:] = np.log(p)
    written = model.generate(
        np.zeros((1, 50), int), 1000, temperature=temperature, seed=0, suppress_tokens=suppressed
    )
    expected = p ** (1 / temperature)
    expected[suppressed] = 0
    expected /= expected.sum()
    found = np.bincount(written.ravel(), minlength=5) / written.size
    assert not found[suppressed].any()
    np.testing.assert_allclose(found, expected, atol=4 * np.sqrt(0.25 / written.size))
    pairs = np.bincount((written[:-1] * 5 + written[1:]).ravel(), minlength=25) / written[1:].size
    np.testing.assert_allclose(pairs.reshape(5, 5), np.outer(expected, expected), atol=0.01)


def test_seeds_and_temperatures(set_threads):
    model = make()
    prompt = np.array([0, 3, 1])
    one, two = (model.generate(prompt, 40, seed=seed) for seed in (1, 2))
    assert bits(one) == bits(model.generate(prompt, 40, seed=1))
    assert bits(one) != bits(two)
    assert bits(model.generate(prompt, 40)) != bits(model.generate(prompt, 40))
    set_threads(2)
    assert bits(one) == bits(model.generate(prompt, 40, seed=1))
    likeliest = model.generate(prompt, 40, temperature=0)
    for tiny in (1e-6, 5e-324):
        assert bits(model.generate(prompt, 40, temperature=tiny, seed=1)) == bits(likeliest)
    assert set(model.generate(prompt, 500, temperature=1.7e308, seed=1)) == set(range(5))
    never = int(likeliest[0])
    assert never not in model.generate(prompt, 40, temperature=0, suppress_tokens=[never])


PROMPT = np.array([[0, 1], [2, 3]])


@pytest.mark.parametrize(
    ("options", "call", "error", "message"),
    [
        ({"loss": "mse"}, {}, ValueError, "loss: expected a model with loss='cross_entropy', got 'mse'"),
        ({"Q": 4}, {}, ValueError, "generate: .*got output_size=4 and input_size=5"),
        ({"bidirectional": True}, {}, ValueError, "generate: expected a layer of one direction"),
        ({}, {"steps": -1}, ValueError, "steps: expected at least 0, got -1"),
        ({}, {"steps": 2.0}, TypeError, "steps: expected an integer, got float"),
        ({}, {"temperature": -0.1}, ValueError, "temperature: expected a finite number of at least 0"),
        ({}, {"temperature": float("nan")}, ValueError, "temperature: expected a finite number"),
        ({}, {"temperature": float("inf")}, ValueError, "temperature: expected a finite number"),
        ({}, {"temperature": "1"}, TypeError, "temperature: expected a number of at least 0, got str"),
        ({}, {"seed": -1}, ValueError, "seed: expected at least 0"),
        ({}, {"prompt": [0, 1]}, TypeError, "prompt: expected a numpy array of integers, got list"),
        ({}, {"prompt": "ab"}, TypeError, "prompt: expected a numpy array of integers, got str"),
        ({}, {"prompt": np.ones(3)}, TypeError, "prompt: expected integer token ids, got float64"),
        ({}, {"prompt": np.zeros((1, 2, 3), int)}, ValueError, r"prompt: expected one or two axes"),
        ({}, {"prompt": np.zeros((0, 2), int)}, ValueError, "prompt: expected at least one step"),
        ({}, {"prompt": np.array([5])}, IndexError, r"prompt: expected ids in \[0, 5\), got 5"),
        ({}, {"lengths": [1, 0]}, ValueError, r"lengths: expected at least 1, got 0 at \[1\]"),
        ({}, {"lengths": [1]}, ValueError, r"lengths: expected shape \(2,\)"),
        ({}, {"suppress_tokens": [5]}, ValueError, r"suppress_tokens: expected ids in \[0, 5\), got \[5\]"),
        ({}, {"suppress_tokens": [-1]}, ValueError, r"suppress_tokens: expected ids in \[0, 5\)"),
        ({}, {"suppress_tokens": [0.5]}, TypeError, "suppress_tokens: expected integers, got float64"),
        ({}, {"suppress_tokens": range(5)}, ValueError, "suppress_tokens: expected some token to be left"),
    ],
)
def test_bad_calls(options, call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        make(**options).generate(**{"prompt": PROMPT, "steps": 3} | call)


def test_models_that_diverged_and_other_losses():
    model = make()
    for value in (np.nan, np.inf):
        model.flat[:] = value
        for temperature in (0, 1):
            with pytest.raises(ValueError, match="^generate: expected a model whose outputs are finite"):
                model.generate(PROMPT, 3, temperature=temperature)
    model = make()
    model.parameters["output.bias"][1:] = -np.inf  # all that is not suppressed
    with pytest.raises(ValueError, match="^generate: expected a model whose outputs are finite"):
        model.generate(PROMPT, 3, suppress_tokens=[0])
    model = make(loss="mse")
    for call in (lambda: model.predict_proba(PROMPT), lambda: model.accuracy(PROMPT, PROMPT)):
        with pytest.raises(ValueError, match="^loss: expected a model with loss='cross_entropy'"):
            call()
    for y in (PROMPT[0], PROMPT + 5, PROMPT.astype(float)):
        with pytest.raises((ValueError, IndexError, TypeError), match="^y: expected"):
            make().accuracy(PROMPT, y)
