"""The optimisers against PyTorch's, and their boundaries."""

import tracemalloc

import numpy as np
import pytest

import pybptt
from pybptt.optim import SGD, Adam

MAKERS = {
    "sgd": lambda flat: SGD(flat, 0.1),
    "momentum": lambda flat: SGD(flat, 0.1, momentum=0.9),
    "adam": lambda flat: Adam(flat, 0.01),
    "adam, other options": lambda flat: Adam(flat, 0.2, betas=(0.5, 0.8), eps=1e-3),
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
        (np.ones(3, np.float32), TypeError, r"float64.*float32.*astype\('float64'\)"),
        (np.ones(4), ValueError, r"\(3,\).*\(4,\)"),
        (np.ones((3, 1)), ValueError, r"\(3,\).*\(3, 1\)"),
        ([1.0, 1.0, 1.0], TypeError, "list"),
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
        (lambda: SGD([1.0], 0.1), TypeError, "flat.*list"),
        (lambda: SGD(np.ones(3, int), 0.1), TypeError, "flat.*int64"),
        (lambda: SGD(np.ones((3, 1)), 0.1), ValueError, r"flat.*\(3, 1\)"),
        (lambda: SGD(read_only(), 0.1), ValueError, "read-only"),
        (lambda: SGD(np.ones(3), -0.1), ValueError, "lr"),
        (lambda: SGD(np.ones(3), float("nan")), ValueError, "lr"),
        (lambda: SGD(np.ones(3), 0.1, momentum=1.0), ValueError, "momentum"),
        (lambda: Adam(np.ones(3), float("inf")), ValueError, "lr"),
        (lambda: Adam(np.ones(3), betas=(0.9,)), ValueError, "betas"),
        (lambda: Adam(np.ones(3), betas=(0.9, 1.0)), ValueError, r"betas\[1\]"),
        (lambda: Adam(np.ones(3), eps=-1e-8), ValueError, "eps"),
    ],
)
def test_wrong_arguments_are_refused_by_name(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda state: state.pop("v"), KeyError),
        (lambda state: state.pop("steps"), KeyError),
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
    for maker in MAKERS.values():
        model = pybptt.SequenceModel(pybptt.RNN(5, 8, seed=0), 5, seed=1)
        optimiser = maker(model.flat)
        first, _ = model.loss(x, x)
        for _ in range(100):
            optimiser.step(model.loss_and_grad(x, x)[1].flat)
        assert model.loss(x, x)[0] < 0.7 * first
