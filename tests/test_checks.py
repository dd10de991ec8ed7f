"""check_gradients: it passes right gradients, finds wrong ones, and leaves the model as it was."""

from types import SimpleNamespace

import numpy as np
import pytest

import pybptt
from pybptt import check_gradients


def problem(loss="cross_entropy", last_only=False, tokens=True, **options):
    rng = np.random.default_rng(3)
    rnn = pybptt.RNN(6, 5, dtype="float64", seed=0, **options)
    model = pybptt.SequenceModel(rnn, 4, loss=loss, last_only=last_only, seed=1)
    x = rng.integers(0, 6, (7, 3)) if tokens else rng.standard_normal((7, 3, 6))
    y = rng.integers(0, 4, (7, 3)) if loss == "cross_entropy" else rng.standard_normal((7, 3, 4))
    return model, x, y[-1] if last_only else y


class Paraboloid:
    """Stands in for a model: L = sum of c p², whose central differences are exact; counts its calls."""

    def __init__(self, wrong=None):
        self.flat = np.arange(1.0, 13.0)
        self.parameters = {"a": self.flat[:8].reshape(2, 4), "b": self.flat[8:]}
        self.curvature = np.arange(12.0) - 2
        self.wrong = wrong
        self.calls = 0

    def loss(self, x, y, state=None, **given):
        self.calls += 1
        return float((self.curvature * self.flat**2).sum()), state

    def loss_and_grad(self, x, y, state=None, **given):
        flat = 2 * self.curvature * self.flat
        if self.wrong is not None:
            flat[self.wrong] += 1.0
        gradients = SimpleNamespace(flat=flat, parameters={"a": flat[:8].reshape(2, 4), "b": flat[8:]})
        return self.loss(x, y)[0], gradients, state


@pytest.mark.parametrize("nonlinearity", ["tanh", "sigmoid", "identity"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("tokens", [False, True])
def test_the_cores_gradients_pass(nonlinearity, loss, last_only, tokens):
    model, x, y = problem(loss, last_only, tokens, nonlinearity=nonlinearity)
    state = np.random.default_rng(4).standard_normal((1, 3, 5))
    errors = check_gradients(model, x, y, state, samples=None)
    assert list(errors) == list(model.parameters)
    assert max(errors.values()) < 1e-7


def test_the_state_is_used():
    model, x, y = problem()
    state = np.random.default_rng(4).standard_normal((1, 3, 5))
    seen = []
    real = model.loss
    vars(model)["loss"] = lambda x, y, state=None, **given: seen.append(state) or real(x, y, state, **given)
    check_gradients(model, x, y, state, samples=1)
    assert len(seen) > 2
    assert all(one is state for one in seen)


@pytest.mark.parametrize("wrong", range(12))
def test_one_wrong_entry_is_found(wrong):
    errors = check_gradients(Paraboloid(wrong), None, None, samples=None)
    good, bad = ("b", "a") if wrong < 8 else ("a", "b")
    assert errors[good] < 1e-8
    assert errors[bad] > 1e-3


def test_a_gradient_left_at_zero_is_found():
    model = Paraboloid()
    zero = {name: np.zeros_like(parameter) for name, parameter in model.parameters.items()}
    model.loss_and_grad = lambda *_, **given: (0.0, SimpleNamespace(parameters=zero), None)
    assert check_gradients(model, None, None) == {"a": pytest.approx(1.0), "b": pytest.approx(1.0)}


def test_a_loss_that_depends_on_nothing_has_no_error():
    model = Paraboloid()
    model.curvature[:] = 0
    assert check_gradients(model, None, None) == {"a": 0.0, "b": 0.0}


def test_a_nan_is_not_lost():
    model = Paraboloid()
    model.curvature[9] = np.nan
    assert np.isnan(check_gradients(model, None, None, samples=None)["b"])


@pytest.mark.parametrize(("samples", "entries"), [(None, 12), (3, 6), (5, 9), (100, 12)])
def test_samples_limit_the_work(samples, entries):
    model = Paraboloid()
    check_gradients(model, None, None, samples=samples)
    assert model.calls == 1 + 2 * entries


def test_the_seed_chooses_the_entries():
    found = [
        check_gradients(Paraboloid(3), None, None, samples=1, seed=seed)["a"] > 1e-3 for seed in range(40)
    ]
    assert 0 < sum(found) < 20
    assert found == [
        check_gradients(Paraboloid(3), None, None, samples=1, seed=seed)["a"] > 1e-3 for seed in range(40)
    ]


def test_the_step_is_used():
    model, x, y = problem()
    assert max(check_gradients(model, x, y, step=0.3).values()) > 1e-4
    assert max(check_gradients(model, x, y, step=1e-4).values()) < 1e-6


def test_the_parameters_are_restored():
    model, x, y = problem()
    before = model.flat.copy()
    check_gradients(model, x, y)
    np.testing.assert_array_equal(model.flat, before)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("calls", [2, 3, 8])
def test_the_parameters_are_restored_after_an_error(error, calls):
    model, x, y = problem()
    before = model.flat.copy()
    real, count = model.loss, 0

    def failing(*args, **given):
        nonlocal count
        count += 1
        if count == calls:
            raise error
        return real(*args, **given)

    vars(model)["loss"] = failing
    with pytest.raises(error):
        check_gradients(model, x, y)
    np.testing.assert_array_equal(model.flat, before)


def test_float32_is_refused():
    model = pybptt.SequenceModel(pybptt.RNN(3, 2), 3)
    with pytest.raises(TypeError, match=r"float64.*float32"):
        check_gradients(model, np.zeros((2, 1), int), np.zeros((2, 1), int))


@pytest.mark.parametrize(
    "options", [{"step": 0.0}, {"step": float("nan")}, {"step": float("inf")}, {"samples": 0}]
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        check_gradients(Paraboloid(), None, None, **options)
