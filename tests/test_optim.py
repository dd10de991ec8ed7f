"""The optimisers against PyTorch's, and their boundaries."""

import copy
import math
import pickle
import tracemalloc

import numpy as np
import pytest

import pybptt
from pybptt.optim import SGD, Accumulator, Adam, AdamW, Cosine, ExponentialDecay, StepDecay, WarmUp

MAKERS = {
    "sgd": lambda flat: SGD(flat, 0.1),
    "momentum": lambda flat: SGD(flat, 0.1, momentum=0.9),
    "adam": lambda flat: Adam(flat, 0.01),
    "adam, other options": lambda flat: Adam(flat, 0.2, betas=(0.5, 0.8), eps=1e-3),
    "sgd, decay": lambda flat: SGD(flat, 0.1, weight_decay=0.3),
    "momentum, decay": lambda flat: SGD(flat, 0.1, momentum=0.9, weight_decay=0.03),
    "adam, decay": lambda flat: Adam(flat, 0.01, weight_decay=0.3),
    "adamw": lambda flat: AdamW(flat, 0.01),
    "adamw, decay": lambda flat: AdamW(flat, 0.01, weight_decay=0.3),
}


def gradients(dtype, size=37, steps=40):
    """Gradients over many orders of magnitude, some of them 0."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal((steps, size)) * 10.0 ** rng.integers(-6, 3, (1, size))
    values[rng.random((steps, size)) < 0.2] = 0
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", MAKERS)
def test_steps_are_those_of_pytorch(kind, dtype):
    torch = pytest.importorskip("torch", reason="PyTorch is the judge here")
    start = np.random.default_rng(0).standard_normal(37).astype(dtype)
    ours, theirs = start.copy(), torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimiser = MAKERS[kind](ours)
    judge = {
        "sgd": lambda p: torch.optim.SGD(p, 0.1),
        "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
        "adam": lambda p: torch.optim.Adam(p, 0.01),
        "adam, other options": lambda p: torch.optim.Adam(p, 0.2, betas=(0.5, 0.8), eps=1e-3),
        "sgd, decay": lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.3),
        "momentum, decay": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.03),
        "adam, decay": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.3),
        "adamw": lambda p: torch.optim.AdamW(p, 0.01),
        "adamw, decay": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.3),
    }[kind]([theirs])
    for i, gradient in enumerate(gradients(dtype)):
        if i == 20:
            optimiser.lr = judge.param_groups[0]["lr"] = 0.03
        optimiser.step(gradient)
        theirs.grad = torch.from_numpy(gradient.copy())
        judge.step()
        bound = 50 * np.finfo(dtype).eps
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=bound, atol=bound)


@pytest.mark.parametrize("kind", MAKERS)
def test_going_on_from_a_saved_state_is_the_same_run(kind, tmp_path):
    flat = np.ones(37)
    optimiser = MAKERS[kind](flat)
    for gradient in gradients("float64")[:10]:
        optimiser.step(gradient)
    saved_flat = flat.copy()
    np.savez(tmp_path / "state.npz", **optimiser.state_dict())
    for gradient in gradients("float64")[10:]:
        optimiser.step(gradient)

    again = MAKERS[kind](saved_flat)
    with np.load(tmp_path / "state.npz") as state:
        again.load_state_dict(state)
    for gradient in gradients("float64")[10:]:
        again.step(gradient)
    np.testing.assert_array_equal(saved_flat, flat)


def test_states_are_copies():
    optimiser = Adam(np.ones(3))
    optimiser.step(np.ones(3))
    state = optimiser.state_dict()
    kept = {name: array.copy() for name, array in state.items()}
    optimiser.step(np.ones(3))
    for name in state:
        np.testing.assert_array_equal(state[name], kept[name])
    optimiser.load_state_dict(state)
    optimiser.step(np.ones(3))
    np.testing.assert_array_equal(state["m"], kept["m"])


@pytest.mark.parametrize("kind", MAKERS)
def test_a_step_changes_the_given_memory_and_not_the_gradient(kind):
    memory = np.ones(74)
    gradient = gradients("float64")[0]
    before = gradient.copy()
    optimiser = MAKERS[kind](memory[::2])
    optimiser.step(gradient)
    np.testing.assert_array_equal(gradient, before)
    assert (memory[::2][gradient != 0] != 1).all()
    assert (memory[1::2] == 1).all()


@pytest.mark.parametrize("kind", MAKERS)
def test_a_step_allocates_nothing_of_the_vectors_size(kind):
    flat, gradient = np.ones(100_000), np.ones(100_000)
    optimiser = MAKERS[kind](flat)
    optimiser.step(gradient)
    tracemalloc.start()
    try:
        optimiser.step(gradient)
        assert tracemalloc.get_traced_memory()[1] < flat.nbytes / 2
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("gradient", "error", "words"),
    [
        (
            np.ones(3, np.float32),
            TypeError,
            r"gradient: expected dtype float64, got float32; convert with gradient.astype\(np.float64\)",
        ),
        (np.ones(4), ValueError, r"gradient: expected shape \(3,\), got \(4,\)"),
        (np.ones((3, 1)), ValueError, r"gradient: expected shape \(3,\), got \(3, 1\)"),
        ([1.0, 1.0, 1.0], TypeError, "gradient: expected a numpy array of float64, got list"),
        (np.array([1.0, 2.0, np.nan]), FloatingPointError, r"got nan in \[2\] \(1 of 3 are not finite\)"),
        (np.array([1.0, -np.inf, np.inf]), FloatingPointError, r"got -inf in \[1\] \(2 of 3"),
    ],
)
@pytest.mark.parametrize("kind", MAKERS)
def test_a_wrong_gradient_is_refused_and_changes_nothing(kind, gradient, error, words):
    flat = np.ones(3)
    optimiser = MAKERS[kind](flat)
    before = optimiser.state_dict()
    with pytest.raises(error, match=words):
        optimiser.step(gradient)
    np.testing.assert_array_equal(flat, 1)
    for name, array in optimiser.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def read_only():
    flat = np.ones(3)
    flat.flags.writeable = False
    return flat


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: SGD([1.0], 0.1), TypeError, "flat: expected a numpy array of float32 or float64.* got list"),
        (lambda: SGD(np.ones(3, int), 0.1), TypeError, "flat: expected dtype float32 or float64, got int64"),
        (lambda: SGD(np.ones(3, np.float16), 0.1), TypeError, "flat: expected dtype .*, got float16"),
        (lambda: SGD(np.ones((3, 1)), 0.1), ValueError, r"flat: expected shape \(N,\), got \(3, 1\)"),
        (
            lambda: SGD(read_only(), 0.1),
            ValueError,
            "flat: expected an array to change in place, got a",
        ),
        (lambda: SGD(np.ones(3), -0.1), ValueError, "lr: expected a finite number of at least 0, got -0.1"),
        (lambda: SGD(np.ones(3), float("nan")), ValueError, "lr: expected a finite .*, got nan"),
        (lambda: SGD(np.ones(3), "0.1"), TypeError, "lr: expected a finite number of at least 0, got str"),
        (lambda: SGD(np.ones(3), 1, momentum=1.0), ValueError, r"momentum: expected .* in \[0, 1\), got 1.0"),
        (lambda: SGD(np.ones(3), 0.1, momentum=abs), TypeError, "momentum: expected a number"),
        (lambda: SGD(np.ones(3), 0.1, weight_decay=-1), ValueError, "weight_decay: expected .*, got -1"),
        (lambda: Adam(np.ones(3), float("inf")), ValueError, "lr: expected a finite number"),
        (lambda: Adam(np.ones(3), betas=(0.9,)), ValueError, r"betas: expected two numbers, got \(0.9,\)"),
        (lambda: Adam(np.ones(3), betas=(0.9, 1.0)), ValueError, r"betas\[1\]: expected a number in \[0, 1"),
        (lambda: Adam(np.ones(3), eps=-1e-8), ValueError, "eps: expected a finite number of at least 0"),
        (lambda: Adam(np.ones(3), eps=0), ValueError, "eps: expected at least 1.2e-38, got 0"),
        (lambda: AdamW(np.ones(3), eps=1e-45), ValueError, "eps: expected at least 1.2e-38, got 1e-45"),
        (lambda: StepDecay(-1, 3), ValueError, "lr: expected"),
        (lambda: StepDecay(1, 2.5), TypeError, "every: expected an integer, got float"),
        (lambda: ExponentialDecay(1, -2), ValueError, "factor: expected"),
        (lambda: Cosine(1, 0), ValueError, "steps: expected a positive number, got 0"),
        (lambda: Cosine(1, 5, final=-1), ValueError, "final: expected"),
        (lambda: WarmUp("x", 5), TypeError, "schedule: expected a finite number of at least 0, got str"),
        (lambda: WarmUp(1, math.inf), ValueError, "steps: expected a positive number, got inf"),
        (lambda: WarmUp(1, 5, start=1), ValueError, r"start: expected a number in \[0, 1\), got 1"),
    ],
)
def test_wrong_arguments_are_refused_by_name(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda state: state.pop("v"), ValueError),
        (lambda state: state.pop("steps"), ValueError),
        (lambda state: state.update(steps=np.array([1])), ValueError),
        (lambda state: state.update(steps=np.array(-1)), ValueError),
        (lambda state: state.update(steps=np.array(1.0)), TypeError),
        (lambda state: state.update(v=np.ones(4)), ValueError),
        (lambda state: state.update(v=np.ones(3, np.float32)), TypeError),
    ],
)
def test_a_wrong_state_is_refused_and_changes_nothing(change, error):
    source, target = Adam(np.ones(3)), Adam(np.ones(3))
    source.step(np.ones(3))
    state = source.state_dict()
    change(state)
    with pytest.raises(error):
        target.load_state_dict(state)
    for name, array in target.state_dict().items():
        np.testing.assert_array_equal(array, 0, err_msg=name)


def test_they_train_a_model():
    x = np.random.default_rng(0).integers(0, 5, (20, 4))
    for maker in (maker for kind, maker in MAKERS.items() if "decay" not in kind):
        model = pybptt.SequenceModel(pybptt.RNN(5, 8, seed=0), 5, seed=1)
        optimiser = maker(model.flat)
        first, _ = model.loss(x, x)
        for _ in range(100):
            optimiser.step(model.loss_and_grad(x, x)[1].flat)
        assert model.loss(x, x)[0] < 0.7 * first


SCHEDULES = {
    "step": (StepDecay(0.1, every=7, factor=0.5), lambda t, o: t.StepLR(o, 7, 0.5)),
    "exponential": (ExponentialDecay(0.1, 0.9), lambda t, o: t.ExponentialLR(o, 0.9)),
    "cosine": (Cosine(0.1, steps=40, final=0.01), lambda t, o: t.CosineAnnealingLR(o, 40, 0.01)),
    "warm-up": (WarmUp(0.1, steps=10, start=0.25), lambda t, o: t.LinearLR(o, 0.25, 1.0, 10)),
    "warm-up and cosine": (
        WarmUp(Cosine(0.1, steps=40), steps=10, start=0.25),
        lambda t, o: t.ChainedScheduler([t.LinearLR(o, 0.25, 1.0, 10), t.CosineAnnealingLR(o, 40)]),
    ),
}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_schedules_are_those_of_pytorch(kind):
    torch = pytest.importorskip("torch", reason="PyTorch is the judge here")
    schedule, make = SCHEDULES[kind]
    start = np.random.default_rng(0).standard_normal(37)
    ours, theirs = start.copy(), torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimiser, judge = AdamW(ours, schedule), torch.optim.AdamW([theirs], 0.1)
    judges_schedule = make(torch.optim.lr_scheduler, judge)
    for step, gradient in enumerate(gradients("float64")):
        assert optimiser.steps == step
        assert optimiser.rate == pytest.approx(judge.param_groups[0]["lr"], rel=1e-12, abs=1e-17)
        optimiser.step(gradient)
        theirs.grad = torch.from_numpy(gradient.copy())
        judge.step()
        judges_schedule.step()
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-12)


def test_schedules_stay_where_they_end_and_can_be_kept():
    assert Cosine(0.1, 40, final=0.01)(41) == Cosine(0.1, 40, final=0.01)(1000) == 0.01
    for schedule, _ in SCHEDULES.values():
        assert pickle.loads(pickle.dumps(schedule)) == copy.deepcopy(schedule) == schedule


@pytest.mark.parametrize("schedule", [ExponentialDecay(1.0, 10.0), StepDecay(1.0, 1, 10.0)])
def test_a_rate_beyond_the_largest_float_is_told_by_name(schedule):
    assert schedule(308) == 1e308
    assert schedule(400) == WarmUp(schedule, 10)(400) == math.inf
    optimiser = SGD(np.ones(3), schedule)
    optimiser.load_state_dict({"steps": np.array(400)})
    with pytest.raises(ValueError, match=r"lr\(400\): expected a finite number of at least 0, got inf"):
        optimiser.step(np.ones(3))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("maker", [Adam, AdamW])
def test_a_gradient_of_0_moves_nothing_however_small_eps_is(maker, dtype):
    """Nor does one whose square is 0 move anything out of range."""
    flat = np.ones(2, dtype)
    optimiser = maker(flat, 0.1, eps=1.2e-38, weight_decay=0.0)
    for _ in range(3):
        optimiser.step(np.array([0, 1e-30], dtype))
    assert flat[0] == 1
    assert np.isfinite(flat[1])


def test_a_run_by_schedule_goes_on_where_it_stopped():
    for make in (
        lambda flat: SGD(flat, StepDecay(0.1, 3)),
        lambda flat: Adam(flat, lambda t: 1 / (1 + t)),
    ):
        flat, parts = np.ones(37), np.ones(37)
        whole, first, second = make(flat), make(parts), make(parts)
        for i, gradient in enumerate(gradients("float64")[:10]):
            whole.step(gradient)
            if i == 5:
                second.load_state_dict(first.state_dict())
            (first if i < 5 else second).step(gradient)
        np.testing.assert_array_equal(parts, flat)


@pytest.mark.parametrize("rate", [-1.0, math.nan, "x"])
def test_a_schedules_wrong_rate_is_told_and_changes_nothing(rate):
    flat = np.ones(3)
    optimiser = Adam(flat, lambda step: rate if step == 2 else 0.1)
    for _ in range(2):
        optimiser.step(np.ones(3))
    before, state = flat.copy(), optimiser.state_dict()
    with pytest.raises((ValueError, TypeError), match=r"lr\(2\): expected a finite number of at least 0"):
        optimiser.step(np.ones(3))
    np.testing.assert_array_equal(flat, before)
    for name, array in optimiser.state_dict().items():
        np.testing.assert_array_equal(array, state[name])


def a_model(dtype="float64", **options):
    return pybptt.SequenceModel(pybptt.LSTM(5, 8, dtype=dtype, seed=0), 5, seed=1, **options)


X = np.random.default_rng(0).integers(0, 5, (20, 6))


@pytest.mark.parametrize("kind", MAKERS)
def test_gradients_are_taken_as_they_are(kind):
    model, same = a_model(), a_model()
    optimiser, other = MAKERS[kind](model.flat), MAKERS[kind](same.flat)
    for _ in range(3):
        gradients = model.loss_and_grad(X, X)[1]
        optimiser.step(pybptt.clip_by_value(pybptt.clip_by_norm(gradients, 0.1), 0.01))
        flat = same.loss_and_grad(X, X)[1].flat
        other.step(pybptt.clip_by_value(pybptt.clip_by_norm(flat, 0.1), 0.01))
        np.testing.assert_array_equal(model.flat, same.flat)


def test_clipped_gradients_are_new_ones():
    gradients = a_model().loss_and_grad(X, X)[1]
    before = gradients.flat.copy()
    for clipped in (pybptt.clip_by_norm(gradients, 1e-3), pybptt.clip_by_value(gradients, 1e-3)):
        assert clipped.parameters.keys() == gradients.parameters.keys()
        assert np.shares_memory(clipped.parameters["bias_hh_l0"], clipped.flat)
        assert np.abs(clipped.flat).max() <= 1e-3 < np.abs(before).max()
        assert clipped.state is gradients.state
        assert clipped.unreached == gradients.unreached
    np.testing.assert_array_equal(gradients.flat, before)
    assert pybptt.clip_by_norm(gradients, 1e3) is gradients


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["weight_ih_l0", "bias_hh_l0", "output.bias"])
def test_the_parameter_of_a_gradient_that_is_not_finite_is_named(name, value):
    model = a_model()
    optimiser, before = Adam(model.flat), model.flat.copy()
    gradients = model.loss_and_grad(X, X)[1]
    gradients.parameters[name][-1] = value
    for use in (
        lambda: optimiser.step(gradients),
        lambda: optimiser.step(pybptt.clip_by_norm(gradients, 1.0)),
        lambda: Accumulator().add(gradients),
    ):
        with pytest.raises(FloatingPointError, match=f"gradient: expected finite numbers, got .* in {name} "):
            use()
    np.testing.assert_array_equal(model.flat, before)
    assert optimiser.steps == 0


@pytest.mark.parametrize("kind", MAKERS)
def test_a_step_is_the_same_where_numpy_raises(kind):
    """The square of 1e-30 is no float32, and the step is made all the same, to its end."""
    gradient = np.array([1e-30, 1e-25, 1.0], np.float32)
    usual, strict = np.ones(3, np.float32), np.ones(3, np.float32)
    MAKERS[kind](usual).step(gradient)
    with np.errstate(all="raise"):
        MAKERS[kind](strict).step(gradient)
    assert usual.tobytes() == strict.tobytes()


def test_a_finite_gradient_whose_sum_is_not_is_taken():
    flat = np.zeros(4, np.float32)
    SGD(flat, 1e-38).step(np.full(4, 3e38, np.float32))
    np.testing.assert_allclose(flat, -3, rtol=1e-2)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_parts_of_a_batch_are_the_batch(reduction):
    """Ragged, so that the parts' targets are not as many as their shares of the batch."""
    model, lengths = a_model(reduction=reduction), np.array([20, 3, 11, 1, 7, 5])
    total = Accumulator()
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        gradients = model.loss_and_grad(X[:, part], X[:, part], lengths=lengths[part])[1]
        before = gradients.flat.copy()
        total.add(gradients, weight=lengths[part].sum() if reduction == "mean" else 1)
        np.testing.assert_array_equal(gradients.flat, before)
    whole = model.loss_and_grad(X, X, lengths=lengths)[1].flat
    mean = total.mean() * (1 if reduction == "mean" else 3)
    np.testing.assert_allclose(mean, whole, rtol=1e-10, atol=1e-14)
    np.testing.assert_array_equal(total.mean(), total.mean())


@pytest.mark.parametrize(
    ("use", "error", "text"),
    [
        (lambda a: a.mean(), ValueError, "mean: expected at least one gradient, got none; add some first"),
        (
            lambda a: a.add(np.ones(3, int)),
            TypeError,
            "gradient: expected dtype float32 or float64, got",
        ),
        (lambda a: a.add([1.0]), TypeError, "gradient: expected a numpy array"),
        (lambda a: a.add(np.ones(3), 0), ValueError, "weight: expected a positive number, got 0"),
        (lambda a: setattr(a, "weight", 2), AttributeError, "weight"),
        (lambda a: [a.add(np.ones(n)) for n in (3, 4)], ValueError, r"gradient: expected shape \(3,\), got"),
    ],
)
def test_wrong_uses_of_an_accumulator(use, error, text):
    with pytest.raises(error, match=text):
        use(Accumulator())


def test_settings_are_checked_when_they_are_assigned_too():
    optimiser = Adam(np.ones(3))
    for name, value, error, text in [
        ("lr", -1, ValueError, "lr: expected a finite number of at least 0, got -1"),
        ("betas", (0.5, 1.0), ValueError, r"betas\[1\]: expected"),
        ("eps", "x", TypeError, "eps: expected"),
        ("eps", 0.0, ValueError, "eps: expected at least"),
        ("lrr", 0.1, AttributeError, "lrr: Adam has no attribute of this name to set; did you mean lr"),
        (
            "momentum",
            0.1,
            AttributeError,
            "Adam has no attribute of this name to set; it has betas, eps",
        ),
        ("flat", np.ones(3), AttributeError, "flat: expected to stay the same vector"),
        ("steps", 3, AttributeError, "steps"),
    ]:
        with pytest.raises(error, match=text):
            setattr(optimiser, name, value)
    optimiser.lr, optimiser.weight_decay, optimiser.betas = Cosine(1, 5), 0.1, (0.5, 0.6)


def test_momentum_that_is_assigned_later():
    flat, expected = np.ones(3), np.ones(3)
    optimiser, judge = SGD(flat, 0.1), SGD(expected, 0.1, momentum=0.5)
    optimiser.momentum = 0.5
    for each in (optimiser, judge):
        for _ in range(3):
            each.step(np.ones(3))
    np.testing.assert_array_equal(flat, expected)
