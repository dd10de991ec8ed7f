"""SequenceModel.stream: each step against PyTorch's autograd, all sources alike, and the sum of them."""

import tracemalloc

import numpy as np
import pytest
from support import assert_all_close, assert_close, bits

import pybptt
from pybptt import TBPTT

CELLS = {"rnn": pybptt.RNN, "lstm": pybptt.LSTM, "gru": pybptt.GRU}
# T, k1, k2: blocks, k1 < k2 < T, a step at a time, k2 < k1, longer than T; with and without a rest, also one
# in which the last window goes back past the boundary before, and blocks that take several pieces forward.
STYLES = [
    (21, 7, 7), (23, 7, 7), (20, 3, 8), (24, 4, 6), (20, 1, 6), (20, 1, 1), (20, 8, 3), (18, 8, 3),
    (20, 30, 30), (20, 30, 8), (24, 8, 1), (20, 6, 30), (20, 20, 20), (200, 90, 10), (190, 90, 20),
    (201, 200, 1),
]  # fmt: skip


def problem(T, *, cell="rnn", tokens=True, loss="cross_entropy", B=3, batch_first=False, **options):
    """A model of two layers, x, y and a state."""
    rng = np.random.default_rng([T, B])
    D, H, Q = 4, 5, 3
    options = {"reduction": "sum"} | options
    layer = CELLS[cell](D, H, 2, dtype="float64", batch_first=batch_first, seed=0)
    model = pybptt.SequenceModel(layer, Q, loss=loss, seed=1, **options)
    shape = (B, T) if batch_first else (T, B)
    x = rng.integers(D, size=shape) if tokens else rng.normal(size=(*shape, D))
    y = rng.integers(Q, size=shape) if loss == "cross_entropy" else rng.normal(size=(*shape, Q))
    state = rng.normal(size=(2, 2, B, H))
    return model, x, y, (state[0], state[1]) if cell == "lstm" else state[0]


def chunks(x, y, sizes, axis=0):
    """Pairs of as many steps as `sizes` says, over and over; in the same arrays, if they are equal."""
    reused = None
    start, T, i = 0, x.shape[axis], 0
    while start < T:
        stop = min(start + sizes[i % len(sizes)], T)
        pair = [np.take(array, range(start, stop), axis) for array in (x, y)]
        if reused is not None and reused[0].shape == pair[0].shape:
            for to, new in zip(reused, pair, strict=True):
                to[...] = new
        else:
            reused = pair
        yield tuple(reused)
        start, i = stop, i + 1


def windows_by_torch(torch, model, x, y, state, k1, k2):
    """Loss, gradients and last state at each boundary by autograd, with the parameters of each time."""
    layer = model.layer
    cell = type(layer).__name__
    module = getattr(torch.nn, cell)(layer.input_size, layer.hidden_size, 2, dtype=torch.float64)
    xs = torch.tensor(x)
    xs = xs if xs.is_floating_point() else torch.nn.functional.one_hot(xs, layer.input_size).double()
    T = len(x)
    ends = [*range(k1, T, k1), T]
    states = {0: state}  # those at the beginnings of windows, with the parameters of their time

    def parameters(grad):
        return {n: torch.tensor(v, requires_grad=grad) for n, v in model.parameters.items()}

    def run(leaves, a, b, state):
        h = tuple(map(torch.tensor, state)) if cell == "LSTM" else torch.tensor(state)
        own = {n: v for n, v in leaves.items() if not n.startswith("output")}
        output, last = torch.func.functional_call(module, own, (xs[a:b], h))
        last = tuple(v.detach().numpy() for v in last) if cell == "LSTM" else last.detach().numpy()
        return output, last

    before = first = 0
    for end in ends:
        start = max(0, end - k2)
        known = before if before <= start else first
        if start > known:
            states[start] = run(parameters(False), known, start, states[known])[1]
        first = start
        leaves = parameters(True)
        output, last = run(leaves, start, end, states[start])
        counted = max(start, before)
        o = torch.nn.functional.linear(
            output[counted - start :], leaves["output.weight"], leaves["output.bias"]
        )
        target = torch.tensor(y[counted:end])
        if model.loss_name == "mse":
            loss = torch.nn.functional.mse_loss(o, target, reduction=model.reduction)
        else:
            loss = torch.nn.functional.cross_entropy(
                o.flatten(0, 1), target.flatten(), reduction=model.reduction
            )
        loss.backward()
        yield loss.item(), {n: leaf.grad.numpy() for n, leaf in leaves.items()}, last, (before, end, counted)
        states[end], before = last, end


def assert_steps_agree(torch, model, steps, expected, B, rate):
    """Step by step, with a step of gradient descent after each."""
    found = 0
    for step, (loss, gradients, last, (before, end, counted)) in zip(steps, expected, strict=True):
        assert step.loss == pytest.approx(loss, rel=1e-11)
        assert_all_close(step.gradients.parameters, gradients, 1e-10)
        assert_close(np.array(step.state), np.array(last), 1e-11)
        assert (step.start, step.stop) == (before, end)
        assert (step.count, step.gradients.unreached) == ((end - counted) * B, (counted - before) * B)
        model.flat -= rate * step.gradients.flat
        found += 1
    assert found > 0


@pytest.mark.parametrize(("T", "k1", "k2"), STYLES)
@pytest.mark.parametrize("cell", CELLS)
def test_each_step_agrees_with_autograd_while_the_parameters_change(torch, T, k1, k2, cell):
    for tokens, loss, reduction in [
        (True, "cross_entropy", "mean"),
        (False, "mse", "sum"),
        (False, "mse", "mean"),
    ]:
        model, x, y, state = problem(T, cell=cell, tokens=tokens, loss=loss, reduction=reduction)
        steps = model.stream(x, y, truncation=TBPTT(k1, k2), state=state)
        expected = windows_by_torch(torch, model, x, y, state, k1, k2)
        assert_steps_agree(torch, model, steps, expected, 3, 0.01)


@pytest.mark.parametrize(("T", "k1", "k2"), STYLES)
@pytest.mark.parametrize("cell", CELLS)
def test_the_sum_is_that_of_the_whole_sequence(T, k1, k2, cell):
    model, x, y, state = problem(T, cell=cell)
    steps = list(model.stream(x, y, truncation=TBPTT(k1, k2), state=state))
    loss, gradients, last = model.loss_and_grad(x, y, state, truncation=TBPTT(k1, k2))
    assert sum(step.loss for step in steps) == pytest.approx(loss, rel=1e-12)
    assert_close(sum(step.gradients.flat for step in steps), gradients.flat)
    assert_close(np.array(steps[-1].state), np.array(last))
    assert sum(step.gradients.unreached for step in steps) == gradients.unreached
    assert sum(step.count for step in steps) + gradients.unreached == T * 3


@pytest.mark.parametrize(("T", "k1", "k2"), STYLES)
@pytest.mark.parametrize("sizes", [[1], [5, 1, 9], [7], [500]])
@pytest.mark.parametrize("batch_first", [False, True])
def test_chunks_of_any_sizes_are_the_whole(T, k1, k2, sizes, batch_first):
    """To the last bit, though the source writes every chunk to the same arrays."""
    model, x, y, state = problem(T, batch_first=batch_first)
    truncation = TBPTT(k1, k2)
    whole = list(model.stream(x, y, truncation=truncation, state=state))
    source = chunks(x, y, sizes, axis=int(batch_first))
    pieces = list(model.stream(source, truncation=truncation, state=state))
    assert len(whole) == len(pieces) == -(-T // k1)
    for a, b in zip(whole, pieces, strict=True):
        assert bits(a.loss, a.gradients, a.state) == bits(b.loss, b.gradients, b.state)
        assert (a.start, a.stop, a.count) == (b.start, b.stop, b.count)


def test_batch_first_is_the_transpose():
    model, x, y, _ = problem(23)
    other = problem(23, batch_first=True)[0]
    for a, b in zip(
        model.stream(x, y, truncation=TBPTT(4, 6)),
        other.stream(x.T, y.T, truncation=TBPTT(4, 6)),
        strict=True,
    ):
        assert bits(a.loss, a.gradients) == bits(b.loss, b.gradients)


def test_memory_maps(tmp_path):
    """Tokens of two bytes, as programs keep them."""
    model, x, y, _ = problem(50)
    mapped = np.memmap(tmp_path / "tokens", np.uint16, "w+", shape=(2, *x.shape))
    mapped[:] = x, y
    steps = model.stream(mapped[0], mapped[1], truncation=TBPTT(10, 10))
    for a, b in zip(model.stream(x, y, truncation=TBPTT(10, 10)), steps, strict=True):
        assert bits(a.loss, a.gradients) == bits(b.loss, b.gradients)


@pytest.mark.parametrize(("k1", "k2"), [(10, 10), (5, 40), (400, 10), (10, 1), (60, 40)])
@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_only_the_last_steps_are_held(k1, k2, chunk):
    """When a chunk is asked for, no more than 2 k2 + 64 steps and the chunk before are in memory."""
    D = 1000
    model = pybptt.SequenceModel(pybptt.RNN(D, 2, seed=0), 2, loss="mse", seed=1)
    most = 0

    def source():
        nonlocal most
        for _ in range(0, 500, chunk):
            yield np.zeros((chunk, 1, D), np.float32), np.zeros((chunk, 1, 2), np.float32)
            most = max(most, tracemalloc.get_traced_memory()[0])

    steps = model.stream(source(), truncation=TBPTT(k1, k2))
    tracemalloc.start()
    try:
        for step in steps:
            assert step.count
    finally:
        tracemalloc.stop()
    assert 0 < most < (2 * k2 + 64 + 2 * chunk) * 4 * D + 100_000


def test_what_was_yielded_stays_and_what_is_done_to_it_changes_nothing():
    for k1, k2 in ((5, 5), (5, 8), (8, 5)):
        model, x, y, state = problem(40, cell="lstm")
        truncation = TBPTT(k1, k2)
        kept = list(model.stream(x, y, truncation=truncation, state=state))
        given = tuple(part.copy() for part in state)
        for a, b in zip(kept, model.stream(x, y, truncation=truncation, state=given), strict=True):
            assert bits(a.loss, a.gradients, a.state) == bits(b.loss, b.gradients, b.state)
            for array in (b.gradients.flat, *b.gradients.state, *b.state, *given):
                array[...] = np.nan


def test_a_stream_goes_on_from_a_step():
    model, x, y, _ = problem(40)
    steps = list(model.stream(x, y, truncation=TBPTT(10, 10)))
    rest = list(model.stream(x[20:], y[20:], truncation=TBPTT(10, 10), state=steps[1].state))
    for a, b in zip(steps[2:], rest, strict=True):
        assert bits(a.loss, a.gradients, a.state) == bits(b.loss, b.gradients, b.state)


def test_clip_hidden_is_passed_on():
    model, x, y, _ = problem(40)
    for k1, k2 in ((10, 10), (10, 15), (15, 10)):
        truncation, clip = TBPTT(k1, k2), ("value", 0.01)
        steps = model.stream(x, y, truncation=truncation, clip_hidden=clip)
        g = model.loss_and_grad(x, y, truncation=truncation, clip_hidden=clip)[1]
        assert_close(sum(step.gradients.flat for step in steps), g.flat)
        assert bits(g.flat) != bits(model.loss_and_grad(x, y, truncation=truncation)[1].flat)


def test_dropout():
    layer = pybptt.RNN(4, 5, 2, dropout=0.5, seed=0)
    model = pybptt.SequenceModel(layer, 3, seed=1)
    _, x, y, _ = problem(40)

    def losses(k1, k2, **options):
        return [step.loss for step in model.stream(x, y, truncation=TBPTT(k1, k2), **options)]

    for k1, k2 in ((10, 10), (10, 15), (15, 10)):
        assert losses(k1, k2, seed=0) == losses(k1, k2, seed=0) != losses(k1, k2, seed=1)
        layer.dropout = 0.0
        without = losses(k1, k2)
        layer.dropout = 0.5
        assert losses(k1, k2, training=False) == without != losses(k1, k2, seed=0)
    # Every block has a mask of its own: on a sequence that repeats, from a state that is always the same.
    layer.parameters["weight_hh_l0"][:] = layer.parameters["weight_hh_l1"][:] = 0
    same = np.zeros((20, 2), np.int64)
    first, second = model.stream(same, same, truncation=TBPTT(10, 10), seed=0)
    assert first.loss != second.loss


def test_nothing_comes_of_nothing():
    model, x, y, _ = problem(5)
    truncation = TBPTT(2, 3)
    assert list(model.stream(x[:0], y[:0], truncation=truncation)) == []
    assert list(model.stream(iter([]), truncation=truncation)) == []
    assert list(model.stream([(x[:0], y[:0])], truncation=truncation)) == []
    parts = [(x[:0], y[:0]), (x, y), (x[:0], y[:0])]
    assert [step.stop for step in model.stream(parts, truncation=truncation)] == [2, 4, 5]
    none = [step.loss for step in model.stream(x[:, :0], y[:, :0], truncation=truncation)]
    assert none == [0, 0, 0]


def test_bad_input_is_refused_before_any_work():
    model, x, y, state = problem(10)
    ok = {"truncation": TBPTT(2, 2)}
    last_only = pybptt.SequenceModel(pybptt.RNN(4, 5), 3, last_only=True)
    both = pybptt.SequenceModel(pybptt.RNN(4, 5, bidirectional=True), 3)
    for error, message, on, arguments, options in [
        (TypeError, "truncation: expected TBPTT, .* got int", model, (x, y), {"truncation": 3}),
        (ValueError, "truncation: .* got one with last_only", last_only, (x, y[0]), ok),
        (ValueError, "truncation: expected layers of one direction", both, (x, y), ok),
        (TypeError, "x: expected a numpy array or an iterable of pairs", model, (3, y), ok),
        (TypeError, "x: expected float64 of shape .*, or integers", model, (x.astype("f4"), y), ok),
        (ValueError, r"x: expected token ids of shape \(T, B\)", model, (x[0], y), ok),
        (TypeError, "y: expected None where x is an iterable", model, ([(x, y)], y), ok),
        (TypeError, "y: expected a numpy array of integers, got NoneType", model, (x,), ok),
        (ValueError, r"y: expected shape \(10, 3\), got \(9, 3\)", model, (x, y[1:]), ok),
        (ValueError, "state: expected shape", model, (x, y), {"state": state[:, :2], **ok}),
        (ValueError, "seed: expected at least 0", model, (x, y), {"seed": -1, **ok}),
        (TypeError, "training: expected True or False", model, (x, y), {"training": 1, **ok}),
        (ValueError, "clip_hidden: expected", model, (x, y), {"clip_hidden": ("norm", -1.0), **ok}),
    ]:
        with pytest.raises(error, match=f"^{message}"):
            on.stream(*arguments, **options)


def test_a_bad_chunk_is_named():
    model, x, y, state = problem(10)
    good = (x[:3], y[:3])
    for error, message, chunk in [
        (TypeError, "x of chunk 1: expected a pair .x, y., got ndarray", x),
        (TypeError, "x of chunk 1: expected a pair .x, y., got tuple", (x,)),
        (TypeError, "x of chunk 1: expected float64 of shape .*, or integers", (x.astype("f4"), y)),
        (ValueError, "x of chunk 1: expected B = 3, as before, got 2", (x[:, :2], y[:, :2])),
        (ValueError, r"y of chunk 1: expected shape \(10, 3\), got \(9, 3\)", (x, y[1:])),
        (TypeError, "y of chunk 1: expected integer class ids, got float64", (x, y.astype(float))),
    ]:
        steps = model.stream(iter([good, chunk]), truncation=TBPTT(3, 3))
        next(steps)
        with pytest.raises(error, match=f"^{message}"):
            next(steps)
    with pytest.raises(ValueError, match="^state: expected shape"):
        next(model.stream([good], truncation=TBPTT(3, 3), state=state[:, :2]))
    steps = problem(10, loss="mse")[0].stream([(x, np.zeros((10, 3)))], truncation=TBPTT(3, 3))
    with pytest.raises(ValueError, match=r"^y of chunk 0: expected shape \(10, 3, 3\)"):
        next(steps)


def test_a_bad_token_is_found_where_it_is():
    model, x, y, _ = problem(10)
    for name, array, k1, k2 in (("x", x, 4, 4), ("y", y, 4, 4), ("x", x, 8, 1), ("y", y, 2, 4)):
        before = array[6, 1]
        array[6, 1] = 9
        start = {(4, 4): 4, (8, 1): 0, (2, 4): 4}[k1, k2]
        with pytest.raises(
            IndexError, match=rf"^{name}: .* got 9 at \[{6 - start}, 1\], steps counted from {start}"
        ):
            list(model.stream(x, y, truncation=TBPTT(k1, k2)))
        array[6, 1] = before
