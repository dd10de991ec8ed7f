"""The linear recurrence and its gradient, recurrences of a user's own, and real-time recurrent learning."""

from functools import cache, partial

import numpy as np
import pytest
from cell_support import FEW, parts, problem
from support import assert_close, bits, run_python

import pybptt
from pybptt import recurrence, reference

AVAILABLE = pybptt.config()["tiers_available"]
DTYPES = ("float32", "float64")
# Fewer columns than a vector, whole vectors, one more and one less; more than a segment; none; other axes.
SHAPES = [
    *((T, N) for T in (1, 2, 7) for N in (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 131)),
    *[(0, 3), (5, 0), (0, 0), (101, 13), (6,), (3, 4, 5), (2, 2, 3, 7), (3, 16385), (2, 40_009)],
]
LARGE = {  # results past the caches: 50 MB and more
    "float32": [(12_000, 1040), (750_000, 17), (3, 4_200_001), (1, 13_000_000)],
    "float64": [(6_000, 1040), (100_000, 67), (2, 3_300_001)],
}


def draw(shape, dtype="float64", seed=0):
    """b, c, a0, and an upstream gradient."""
    rng = np.random.default_rng([seed, *shape])
    b, c, d_a = (rng.uniform(-1, 1, shape).astype(dtype) for _ in range(3))
    return b, c, np.asarray(rng.uniform(-1, 1, shape[1:]), dtype), d_a


def by_products(b, c, a0):
    """a_t = sum_s (prod_{r=s+1..t} c_r) b_s, with b_0 = a_0."""
    b = np.concatenate([a0[None], b])
    a = np.zeros_like(b)
    for t in range(len(b)):
        for s in range(t + 1):
            a[t] += np.prod(c[s:t], axis=0) * b[s]
    return a[1:]


def in_steps(b, c, a0, d_a):
    """The same, and the gradient, one row after another, in float64."""
    a = reference.linear_scan(b, c, a0)
    return a, *reference.linear_scan_backward(d_a, c, a, a0)


def both(b, c, a0, d_a):
    a = recurrence.linear_scan(b, c, a0)
    return a, *recurrence.linear_scan_backward(d_a, c, a, a0)


@pytest.mark.parametrize("shape", [(T, N) for T in (0, 1, 2, 13, 30) for N in (1, 3, 16, 21)])
def test_the_scan_is_the_sum_of_products(shape):
    b, c, a0, _ = draw(shape)
    assert_close(recurrence.linear_scan(b, c, a0), by_products(b, c, a0), 1e-14, floor=1.0)
    assert_close(recurrence.linear_scan(b, c), by_products(b, c, np.zeros_like(a0)), 1e-14, floor=1.0)


@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (9, 4, 5), (4, 16), (6,)])
def test_the_gradient_is_autograds(torch, shape, start):
    b, c, a0, d_a = draw(shape)
    leaves = [torch.tensor(array, requires_grad=True) for array in (b, c, a0 if start else np.zeros_like(a0))]
    rows, a_t = [], leaves[2]
    for b_t, c_t in zip(leaves[0], leaves[1], strict=True):
        a_t = b_t + c_t * a_t
        rows.append(a_t)
    (torch.stack(rows) * torch.tensor(d_a)).sum().backward()
    a = recurrence.linear_scan(b, c, a0 if start else None)
    gradients = recurrence.linear_scan_backward(d_a, c, a, a0 if start else None)
    for found, leaf in zip(gradients, leaves, strict=True):
        assert_close(found, leaf.grad.numpy(), 1e-14, floor=1.0)


def test_the_gradient_is_the_quotient_of_differences():
    b, c, a0, d_a = draw((7, 5), seed=1)
    arrays = {"b": b, "c": c, "a0": a0}
    wanted = pybptt.reference.finite_differences(
        lambda p: float((recurrence.linear_scan(p["b"], p["c"], p["a0"]) * d_a).sum()), arrays
    )
    gradients = recurrence.linear_scan_backward(d_a, c, recurrence.linear_scan(b, c, a0), a0)
    for found, expected in zip(gradients, wanted.values(), strict=True):
        assert_close(found, expected, 1e-8, floor=1.0)


def save(dtype, path):
    """What this process's tier makes of all shapes."""
    np.savez(path, *(array for shape in SHAPES for array in both(*draw(shape, dtype))))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    @cache
    def run(tier, dtype):
        path = tmp_path_factory.mktemp("results") / "results.npz"
        program = "import sys, test_recurrence; test_recurrence.save(*sys.argv[1:])"
        run_python(program, dtype, path, PYBPTT_TIER=tier)
        with np.load(path) as file:
            return list(file.values())

    return run


@pytest.mark.parametrize("tier", AVAILABLE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_tier_agrees_with_single_steps(tier, dtype, results):
    tolerance = 1e-14 if dtype == "float64" else 1e-6
    expected = [
        array
        for shape in SHAPES
        for array in in_steps(*(array.astype(np.float64) for array in draw(shape, dtype)))
    ]
    for found, wanted in zip(results(tier, dtype), expected, strict=True):
        assert found.dtype == dtype
        assert_close(found, wanted, tolerance, floor=1.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_threads_gives_the_same_bits(dtype, set_threads):
    for shape in [(3, 7), (3000, 131), (300, 5120), (7, 40_009)]:
        arrays = draw(shape, dtype)
        set_threads(1)
        alone = bits(*both(*arrays))
        for threads in (2, 3, 5):
            set_threads(threads)
            assert bits(*both(*arrays)) == alone


@pytest.mark.parametrize(("dtype", "shape"), [(d, s) for d in DTYPES for s in LARGE[d]])
def test_results_past_the_caches_have_the_bits_of_their_columns(dtype, shape, set_threads):
    """Long arrays take other ways through memory than some of their columns alone."""
    rng = np.random.default_rng(0)
    b, c, d_a = (rng.random(shape, np.float32).astype(dtype) - np.asarray(0.5, dtype) for _ in range(3))
    a0 = rng.random(shape[1:], np.float32).astype(dtype)
    set_threads(1)
    whole = both(b, c, a0, d_a)
    some = np.r_[0:9, shape[1] // 2 : shape[1] // 2 + 5, shape[1] - 3 : shape[1]]
    few = both(*(np.ascontiguousarray(array[..., some]) for array in (b, c, a0, d_a)))
    assert bits(*(np.ascontiguousarray(array[..., some]) for array in whole)) == bits(*few)
    set_threads(2)
    for found, expected in zip(both(b, c, a0, d_a), whole, strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("offset", [0, 1, 5, 15])
def test_results_past_the_caches_may_begin_anywhere(offset, set_threads):
    set_threads(1)
    T, N = 400_000, 33
    rng = np.random.default_rng(offset)
    b, c = rng.random((2, T, N), np.float32)
    room = np.full(T * N + 48, np.nan, np.float32)
    out = room[offset : offset + T * N].reshape(T, N)
    assert recurrence.linear_scan(b, c, out=out) is out
    assert np.isnan(room[:offset]).all()
    assert np.isnan(room[offset + T * N :]).all()
    assert np.array_equal(out, recurrence.linear_scan(b, c))


def test_views_are_taken_as_they_are():
    b, c, a0, d_a = draw((5, 6, 7))
    swapped = [array.swapaxes(1, 2) for array in (b, c)]
    a = recurrence.linear_scan(*swapped, a0.T)
    assert np.array_equal(a, recurrence.linear_scan(b, c, a0).swapaxes(1, 2))
    assert np.array_equal(
        recurrence.linear_scan_backward(d_a[::-1], c, a.swapaxes(1, 2), a0)[0],
        recurrence.linear_scan_backward(d_a[::-1].copy(), c, a.swapaxes(1, 2).copy(), a0)[0],
    )


def test_a_sequence_cut_in_two_is_the_whole():
    for shape in [(9,), (9, 4)]:
        b, c, a0, _ = draw(shape)
        first = recurrence.linear_scan(b[:4], c[:4], a0)
        second = recurrence.linear_scan(b[4:], c[4:], first[-1])
        assert np.array_equal(np.concatenate([first, second]), recurrence.linear_scan(b, c, a0))


def test_nan_and_infinity_stay_in_their_column():
    b, c, a0, d_a = draw((6, 20))
    expected = both(b, c, a0, d_a)
    b[2, 3], c[4, 18] = np.nan, np.inf
    found = both(b, c, a0, d_a)
    assert np.isnan(found[0][2:, 3]).all()
    assert np.isinf(found[0][4, 18])
    others = [j for j in range(20) if j not in (3, 18)]
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one[..., others], other[..., others])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 3])
def test_denormals_are_zero(dtype, threads, set_threads):
    """0.5^t passes through the denormal numbers; the caller's mode is what it was."""
    set_threads(threads)
    T = 1200
    tiny = np.finfo(dtype).tiny
    c, upstream = np.full((T, 4000), 0.5, dtype), np.zeros((T, 4000), dtype)
    upstream[-1] = 1
    a, d_b, _, _ = both(np.zeros((T, 4000), dtype), c, np.ones(4000, dtype), upstream)
    for found in (a, d_b[::-1]):
        assert (found[found != 0] >= tiny).all()
        assert found[1].all()
        assert not found[-1].any()
    assert np.full(37, tiny, dtype).min() / 4 > 0


ONES = np.ones((3, 4))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: recurrence.linear_scan([1.0], ONES), TypeError, "b: expected a numpy array"),
        (lambda: recurrence.linear_scan(ONES.astype(int), ONES), TypeError, "b: expected dtype float32 or f"),
        (lambda: recurrence.linear_scan(np.array(1.0), ONES), ValueError, r"b: expected shape \(T"),
        (lambda: recurrence.linear_scan(ONES, ONES[:2]), ValueError, r"c: expected shape \(3, 4\), got"),
        (lambda: recurrence.linear_scan(ONES, ONES.astype("f4")), TypeError, "c: expected dtype float64"),
        (lambda: recurrence.linear_scan(ONES, ONES, ONES), ValueError, r"a0: expected shape \(4,\), got"),
        (lambda: recurrence.linear_scan(ONES, ONES, out=ONES), ValueError, "out: expected memory of its own"),
        (lambda: recurrence.linear_scan(ONES, ONES, out=ONES[:2].copy()), ValueError, "out: expected shape"),
        (
            lambda: recurrence.linear_scan(ONES, ONES, out=np.ones((4, 3)).T),
            ValueError,
            "out: expected an aligned, C-contiguous",
        ),
        (lambda: recurrence.linear_scan_backward(1, ONES, ONES), TypeError, "d_a: expected a numpy array"),
        (lambda: recurrence.linear_scan_backward(ONES, ONES[1:], ONES), ValueError, "c: expected shape"),
        (lambda: recurrence.linear_scan_backward(ONES, ONES, ONES[1:]), ValueError, "a: expected shape"),
        (lambda: recurrence.linear_scan_backward(ONES, ONES, ONES, ONES), ValueError, "a0: expected shape"),
    ],
)
def test_bad_arrays_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_result_that_cannot_be_written():
    out = np.zeros((3, 4))
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out: expected an aligned, C-contiguous array that can be written"):
        recurrence.linear_scan(ONES, ONES, out=out)


# (1 + w s)^2 four times from s = 1 at w = 2, and its partial derivatives.
SQUARE = (
    lambda w, s: (1 + w * s) ** 2,
    lambda w, s: 2 * (1 + w * s) * s,
    lambda w, s: 2 * (1 + w * s) * w,
)
WAYS = (recurrence.sum_of_products, recurrence.forward_accumulation, recurrence.reverse_sweep)


@pytest.mark.parametrize("way", WAYS)
def test_integers_stay_exact(way):
    assert way(*SQUARE, 2, 1, 4) == (1092984520681, 12926834988414)
    assert [type(value) for value in way(*SQUARE, 2, 1, 4)] == [int, int]
    assert way(*SQUARE, 2, 1, 0) == (1, 0)
    assert way(*SQUARE, 2, 1, 1) == (9, 6)


def elman(w, s):
    return np.tanh(w @ s)


def elman_by_w(w, s):
    return np.einsum("i,ij,k->ijk", 1 - elman(w, s) ** 2, np.eye(len(s)), s)


def elman_by_s(w, s):
    return (1 - elman(w, s) ** 2)[:, None] * w


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("steps", [0, 1, 2, 9])
def test_every_way_is_autograds(torch, way, steps):
    """An Elman network without input: S is a vector, W a matrix."""
    rng = np.random.default_rng(steps)
    w, s0 = rng.normal(size=(3, 3)), rng.normal(size=3)

    def unrolled(w):
        s = torch.tensor(s0)
        for _ in range(steps):
            s = torch.tanh(w @ s)
        return s + 0 * w.sum()

    s, gradient = way(elman, elman_by_w, elman_by_s, w, s0, steps)
    expected = torch.autograd.functional.jacobian(unrolled, torch.tensor(w)).numpy()
    assert_close(s, unrolled(torch.tensor(w)).numpy(), 1e-14)
    assert gradient.shape == (3, 3, 3)
    assert_close(gradient, expected, 1e-13, floor=1.0)
    if way is recurrence.reverse_sweep:
        upstream = rng.normal(size=3)
        _, by_loss = way(elman, elman_by_w, elman_by_s, w, s0, steps, upstream)
        assert_close(by_loss, np.tensordot(upstream, expected, 1), 1e-13, floor=1.0)


@pytest.mark.parametrize("way", WAYS)
def test_numbers_and_vectors_mix(way):
    rotate = np.array([[0.0, -1.0], [1.0, 0.0]])
    s, gradient = way(lambda w, s: w * rotate @ s, lambda w, s: rotate @ s, lambda w, s: w * rotate, 2.0,
                      np.array([1.0, 0.0]), 3)  # fmt: skip
    assert (s.tolist(), gradient.tolist()) == (
        [0.0, -8.0],
        [0.0, -12.0],
    )  # w^3, and 3 w^2, a quarter turn each
    w = np.array([2.0, 3.0])
    s, gradient = way(lambda w, s: w @ w * s, lambda w, s: 2 * w * s, lambda w, s: w @ w, w, 1.0, 2)
    assert (s, gradient.tolist()) == (169.0, [104.0, 156.0])  # |w|^4, 4 |w|^2 w


def test_wrong_functions_are_named():
    f, df_dw, df_ds = SQUARE
    for way in WAYS:
        for wrong, name in (((1, df_dw, df_ds), "f"), ((f, 1, df_ds), "df_dw"), ((f, df_dw, 1), "df_ds")):
            with pytest.raises(TypeError, match=f"^{name}: expected a function of W and S, got int"):
                way(*wrong, 2, 1, 2)
        with pytest.raises(ValueError, match="steps: expected at least 0, got -1"):
            way(*SQUARE, 2, 1, -1)
        with pytest.raises(ValueError, match=r"df_dw: expected shape \(2, 3\)"):
            way(lambda w, s: s, lambda w, s: np.zeros(2), lambda w, s: np.eye(2), np.ones(3), np.ones(2), 2)
        with pytest.raises(ValueError, match=r"df_ds: expected shape \(2, 2\)"):
            way(lambda w, s: s, lambda w, s: np.zeros((2, 3)), lambda w, s: 1, np.ones(3), np.ones(2), 2)
        with pytest.raises(ValueError, match="s0: expected a number or shape"):
            way(*SQUARE, 2, np.ones((2, 2)), 1)
    with pytest.raises(ValueError, match=r"upstream: expected shape \(\), got \(2,\)"):
        recurrence.reverse_sweep(*SQUARE, 2, 1, 1, np.ones(2))


def assert_same_result(found, expected, tolerance=1e-10):
    loss, gradients, state = expected
    assert found[0] == pytest.approx(loss, rel=tolerance)
    assert found[1].flat.dtype == np.float64
    assert list(found[1].parameters) == list(gradients.parameters)
    for name, wanted in gradients.parameters.items():
        assert_close(found[1].parameters[name], wanted, tolerance, floor=1e-3)
    for one, wanted in zip(parts(found[1].state), parts(gradients.state), strict=True):
        assert_close(one, wanted, tolerance, floor=1e-3)
    for one, wanted in zip(parts(found[2]), parts(state), strict=True):
        assert_close(one, wanted, tolerance, floor=1e-3)


def model_of(p, loss, Q=3, **options):
    model = pybptt.SequenceModel(p.layer, Q, loss=loss, seed=1, **options)
    rng = np.random.default_rng(2)
    T, B = p.x.shape[1::-1] if p.layer.batch_first else p.x.shape[:2]
    shape = (B,) if model.last_only else p.x.shape[:2]
    y = rng.integers(Q, size=shape) if loss == "cross_entropy" else rng.normal(size=(*shape, Q))
    return model, y.astype(p.layer.dtype) if loss == "mse" else y


@pytest.mark.parametrize("cell", FEW)
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_rtrl_is_bptt(cell, tokens, layers):
    p = problem(cell, 5, 2, 3, 4, layers, tokens=tokens)
    loss, reduction = ("mse", "sum") if tokens else ("cross_entropy", "mean")
    model, y = model_of(p, loss, reduction=reduction)
    assert_same_result(recurrence.rtrl(model, p.x, y, p.state), model.loss_and_grad(p.x, y, p.state))


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("last_only", [False, True])
def test_rtrl_with_lengths(loss, reduction, last_only):
    p = problem("lstm", 6, 3, 2, 3, bias=False, lengths=[4, 0, 6])
    model, y = model_of(p, loss, reduction=reduction, last_only=last_only)
    call = partial(model.loss_and_grad, p.x, y, p.state, lengths=p.lengths)
    assert_same_result(recurrence.rtrl(model, p.x, y, p.state, lengths=p.lengths), call())


def test_rtrl_of_other_layouts():
    p = problem("gru", 4, 3, 2, 5, 3, batch_first=True, dropout=0.5)
    p.x = np.ascontiguousarray(p.x.swapaxes(0, 1))
    model, y = model_of(p, "cross_entropy")
    assert_same_result(recurrence.rtrl(model, p.x, y), model.loss_and_grad(p.x, y, training=False))
    p = problem("rnn", 4, 3, 2, 5, dtype="float32")
    model, y = model_of(p, "mse")
    found, expected = recurrence.rtrl(model, p.x, y, p.state), model.loss_and_grad(p.x, y, p.state)
    assert_same_result(found, expected, 1e-5)
    p = problem("rnn", 0, 2, 3, 4)
    model, y = model_of(p, "cross_entropy")
    assert_same_result(recurrence.rtrl(model, p.x, y, p.state), model.loss_and_grad(p.x, y, p.state))


def test_rtrl_takes_models_of_one_direction():
    model = pybptt.SequenceModel(pybptt.RNN(2, 3, bidirectional=True), 4)
    x, y = np.zeros((5, 1), int), np.zeros((5, 1), int)
    with pytest.raises(ValueError, match="model: expected layers of one direction"):
        recurrence.rtrl(model, x, y)
    with pytest.raises(TypeError, match="model: expected a SequenceModel, got RNN"):
        recurrence.rtrl(model.layer, x, y)
    one = pybptt.SequenceModel(pybptt.RNN(2, 3), 4)
    with pytest.raises(IndexError, match="y: expected ids in"):
        recurrence.rtrl(one, x, y + 4)
