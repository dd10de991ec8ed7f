"""SequenceModel over every cell, stacks, two directions and ragged batches."""

import copy
import itertools
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from cell_support import (
    CELLS,
    EVERY,
    FEW,
    FLAGS,
    PYTORCHS,
    backward,
    cell_options,
    directions,
    drawn_mask,
    forward,
    parts,
    problem,
    relative_error,
    state_size,
    torch_gradients,
    torch_leaves,
    torch_network,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_close, bits

import pybptt
from pybptt import reference

LOSSES = ("cross_entropy", "mse")
REDUCTIONS = ("mean", "sum")
RAGGED = [4, 0, 7, 7, 1, 3, 6, 2, 5]


def model_of(cell, T, B, D, H, Q, L=1, K=1, *, loss="cross_entropy", reduction="mean", last_only=False,
             seed=0, **options):  # fmt: skip
    """A model, and what its loss_and_grad takes."""
    p = problem(cell, T, B, D, H, L, K, seed=seed, **options)
    rng = np.random.default_rng([seed, Q])
    shape = (B,) if last_only else (T, B)
    dtype = p.layer.dtype
    p.y = (
        rng.integers(Q, size=shape) if loss == "cross_entropy" else rng.normal(size=(*shape, Q)).astype(dtype)
    )
    p.model = pybptt.SequenceModel(
        p.layer, Q, loss=loss, reduction=reduction, last_only=last_only, seed=seed + 1
    )
    return p


def loss_and_grad(p, **options):
    asked = {"hidden": True, "input": True} | options
    value, g, state = p.model.loss_and_grad(
        p.x, p.y, p.state, lengths=p.lengths, dropout_mask=p.mask, **asked
    )
    return SimpleNamespace(value=value, g=g, state=state)


def by_reference(p):
    value, g, state = reference.run_loss_and_grad(
        type(p.layer).__name__.lower(), p.model.parameters, p.x, p.y, state=p.state, lengths=p.lengths,
        dropout_mask=p.mask, loss=p.model.loss_name, reduction=p.model.reduction, last_only=p.model.last_only,
        **cell_options(p.layer),
    )  # fmt: skip
    return SimpleNamespace(value=value, g=g, state=state)


def by_torch(torch, p):
    """What loss_and_grad returns but for `hidden`, and the outputs, 0 past a sequence's end."""
    layer, model = p.layer, p.model
    leaves, xs, state = torch_leaves(torch, p, model.parameters)
    network = {name: leaf for name, leaf in leaves.items() if not name.startswith("output")}
    output, last = torch_network(torch, p, network, xs, state)
    counted = np.ones(p.x.shape[:2], bool)
    if p.lengths is not None:
        counted = np.arange(len(p.x))[:, None] < p.lengths
    if model.last_only:
        output, counted = torch.cat(tuple(last[0][-directions(layer) :]), dim=-1), np.ones(p.x.shape[1], bool)
    o = torch.nn.functional.linear(output, leaves["output.weight"], leaves["output.bias"])
    judge = getattr(torch.nn.functional, "mse_loss" if model.loss_name == "mse" else "cross_entropy")
    here = torch.tensor(counted)
    loss = judge(o[here], torch.tensor(p.y)[here], reduction=model.reduction)
    loss.backward()
    last = tuple(s.detach().numpy() for s in last)
    return SimpleNamespace(
        value=loss.item(),
        g=torch_gradients(p, leaves, xs, state),
        state=last if len(last) == 2 else last[0],
        output=o.detach().numpy() * counted[..., None],
    )


def assert_same(found, expected, tolerance=1e-12, floor=0.0):
    assert abs(found.value - expected.value) <= tolerance * max(floor, abs(expected.value))
    pairs = {"input": (found.g.input, expected.g.input), "hidden": (found.g.hidden, expected.g.hidden)}
    pairs = {name: pair for name, pair in pairs.items() if pair[1] is not None}
    for name, a, b in (("state", found.state, expected.state), ("d_state", found.g.state, expected.g.state)):
        pairs |= {f"{name}[{i}]": pair for i, pair in enumerate(zip(parts(a), parts(b), strict=True))}
    assert list(found.g.parameters) == list(expected.g.parameters)
    pairs |= {n: (found.g.parameters[n], gradient) for n, gradient in expected.g.parameters.items()}
    assert {n: a.shape for n, (a, _) in pairs.items()} == {n: b.shape for n, (_, b) in pairs.items()}
    errors = {name: relative_error(a, b, floor) for name, (a, b) in pairs.items()}
    assert {name: error for name, error in errors.items() if not error <= tolerance} == {}


# ---- PyTorch and the reference --------------------------------------------------------------------------


@pytest.mark.parametrize("cell", PYTORCHS)
@pytest.mark.parametrize(("L", "K"), [(1, 1), (2, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("last_only", FLAGS)
@pytest.mark.parametrize("lengths", [None, RAGGED], ids=["equal", "ragged"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_agrees_with_autograd(torch, cell, L, K, last_only, lengths, loss, reduction):
    options = {"last_only": last_only, "lengths": lengths, "loss": loss, "reduction": reduction}
    for tokens in FLAGS:
        p = model_of(cell, 7, 9, 4, 9, 5, L, K, tokens=tokens, mask=True, **options)
        found, expected = loss_and_grad(p), by_torch(torch, p)
        assert_same(found, expected)
        assert found.g.input is None or expected.g.input is not None
        p.mask = None  # loss and predictions are without dropout
        plain, expected = loss_and_grad(p), by_torch(torch, p)
        assert bits(*p.model.loss(p.x, p.y, p.state, lengths=lengths)) == bits(plain.value, plain.state)
        prediction, state = p.model(p.x, p.state, lengths=lengths)
        assert_close(prediction, expected.output)
        assert bits(state) == bits(plain.state)


@pytest.mark.parametrize("cell", PYTORCHS)
@pytest.mark.parametrize("K", [1, 2])
@pytest.mark.parametrize(("T", "B", "Q"), [(600, 1, 5), (3, 545, 7), (40, 33, 3), (5, 9, 1100)])
def test_agrees_with_autograd_however_time_and_batch_are_cut(torch, cell, K, T, B, Q):
    for ragged, last_only in itertools.product(FLAGS, FLAGS):
        lengths = np.random.default_rng(Q).integers(0, T + 1, size=B) if ragged else None
        p = model_of(cell, T, B, 5, 8, Q, 1, K, tokens=True, lengths=lengths, last_only=last_only)
        assert_same(loss_and_grad(p), by_torch(torch, p))
        prediction, _ = p.model(p.x, p.state, lengths=lengths)
        assert_close(prediction, by_torch(torch, p).output)


@pytest.mark.parametrize("cell", EVERY)
@pytest.mark.parametrize("last_only", FLAGS)
@pytest.mark.parametrize("lengths", [None, RAGGED], ids=["equal", "ragged"])
def test_agrees_with_the_reference(cell, last_only, lengths):
    for loss, K in itertools.product(LOSSES, (1, 2)):
        p = model_of(cell, 7, 9, 4, 9, 5, 2, K, mask=True, loss=loss, last_only=last_only, lengths=lengths)
        assert_same(loss_and_grad(p), by_reference(p))


SIZES = st.sampled_from([1, 2, 3, 5, 8, 13, 15, 16, 17, 33])


@settings(max_examples=150)
@given(T=st.integers(0, 13), B=st.integers(0, 20), D=SIZES, H=SIZES, Q=SIZES, L=st.integers(1, 3),
       K=st.sampled_from([1, 2]), cell=st.sampled_from(sorted(EVERY)), loss=st.sampled_from(LOSSES),
       reduction=st.sampled_from(REDUCTIONS), last_only=st.booleans(), ragged=st.booleans(),
       tokens=st.booleans(), seed=st.integers(0, 1000))  # fmt: skip
def test_agrees_with_the_reference_for_any_shape(T, B, D, H, Q, L, K, cell, loss, reduction, last_only,
                                                 ragged, tokens, seed):  # fmt: skip
    lengths = np.random.default_rng(seed).integers(0, T + 1, size=B) if ragged else None
    options = {"loss": loss, "reduction": reduction, "last_only": last_only and T > 0, "lengths": lengths}
    p = model_of(cell, T, B, D, H, Q, L, K, tokens=tokens, seed=seed, **options)
    found, expected = loss_and_grad(p), by_reference(p)
    count = max(1, p.y.size)
    assert_same(found, expected, floor=1.0 if reduction == "sum" else 1.0 / count)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("structure", [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_check_gradients_finds_nothing_wrong(cell, structure):
    for loss, last_only in itertools.product(LOSSES, FLAGS):
        p = model_of(cell, 4, 3, 3, 4, 3, *structure, loss=loss, last_only=last_only)
        if "relu" in cell:
            p.layer.flat *= 0.5
        if "projected" in cell:  # or gradients are so small that the differences have few right digits
            p.layer.flat *= 2
        errors = pybptt.check_gradients(p.model, p.x, p.y, p.state, samples=12)
        assert list(errors) == list(p.model.parameters)
        assert max(errors.values()) < 1e-7


@pytest.mark.parametrize("cell", FEW)
def test_check_gradients_of_ragged_batches_and_with_dropout(cell):
    """With a mask it is in both, without one in neither, whatever the layer's rate."""
    p = model_of(cell, 4, 3, 3, 4, 3, 2, 2, lengths=[2, 0, 4], mask=True, dropout=0.5)
    for mask in (p.mask, None):
        options = {"lengths": p.lengths, "dropout_mask": mask, "samples": 12}
        errors = pybptt.check_gradients(p.model, p.x, p.y, p.state, **options)
        assert max(errors.values()) < 1e-7
    p.x[2:, 0] = np.nan
    assert max(pybptt.check_gradients(p.model, p.x, p.y, p.state, **options).values()) < 1e-7


@pytest.mark.parametrize("cell", FEW)
def test_float32_is_as_accurate_as_it_should_be(cell):
    """Root mean square of the errors, relative: 10 sqrt(n) u, n the longest sum, u = 2^-24."""
    for loss, last_only, K in itertools.product(LOSSES, FLAGS, (1, 2)):
        options = {"loss": loss, "last_only": last_only, "tokens": True, "lengths": [12] * 8 + [5, 0]}
        p, q = (model_of(cell, 12, 10, 9, 17, 7, 1, K, dtype=d, **options) for d in ("float32", "float64"))
        q.model.flat = p.model.flat.astype(np.float64)
        if loss == "mse":
            q.y = p.y.astype(np.float64)
        q.state = tuple(s.astype(np.float64) for s in parts(p.state))
        q.state = q.state if p.d_cells is not None else q.state[0]
        single, double = loss_and_grad(p), loss_and_grad(q)
        allowed = 10 * np.sqrt(9 + 4 * 17 + 7 + 120) * 2**-24
        assert abs(single.value - double.value) <= allowed * double.value
        for name, expected in double.g.parameters.items():
            error = np.sqrt(np.mean((single.g.parameters[name] - expected) ** 2))
            assert error <= allowed * np.sqrt(np.mean(expected**2)), name


# ---- Padding --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", FEW)
@pytest.mark.parametrize("K", [1, 2])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("last_only", FLAGS)
@pytest.mark.parametrize("tokens", FLAGS)
@pytest.mark.parametrize("batch_first", FLAGS)
def test_nothing_in_the_padding_counts(cell, K, loss, last_only, tokens, batch_first):
    options = {"loss": loss, "last_only": last_only, "tokens": tokens, "batch_first": batch_first}
    p = model_of(cell, 7, 9, 4, 9, 5, 2, K, lengths=RAGGED, mask=True, **options)
    if batch_first:
        p.x = p.x.swapaxes(0, 1).copy()
        p.y = p.y if last_only else p.y.swapaxes(0, 1).copy()
    clean, prediction = loss_and_grad(p), p.model(p.x, p.state, lengths=RAGGED)[0]
    past = np.arange(7)[:, None] >= RAGGED
    p.mask[:, past] = np.nan
    past = past.T if batch_first else past
    p.x[past] = -5 if tokens else np.nan
    if not last_only:
        p.y[past] = 99 if loss == "cross_entropy" else np.nan
        assert not prediction[past].any()
    dirty = loss_and_grad(p)
    assert bits(dirty.value, dirty.g, dirty.state) == bits(clean.value, clean.g, clean.state)
    assert np.isfinite(dirty.g.flat).all()
    assert not dirty.g.hidden[:, np.arange(7)[:, None] >= RAGGED].any()
    assert tokens or not dirty.g.input[past].any()
    assert bits(p.model(p.x, p.state, lengths=RAGGED)[0]) == bits(prediction)
    p.mask = None
    assert p.model.loss(p.x, p.y, p.state, lengths=RAGGED)[0] == loss_and_grad(p).value


@pytest.mark.parametrize("cell", FEW)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("K", [1, 2])
def test_a_mean_is_over_the_targets_that_count(cell, loss, K):
    for last_only in FLAGS:
        options = {"loss": loss, "last_only": last_only, "lengths": RAGGED}
        p, q = (model_of(cell, 7, 9, 4, 9, 5, 1, K, reduction=r, **options) for r in REDUCTIONS)
        mean, total = loss_and_grad(p), loss_and_grad(q)
        count = (9 if last_only else sum(RAGGED)) * (5 if loss == "mse" else 1)
        assert_close(mean.value * count, total.value)
        assert_close(mean.g.flat * count, total.g.flat)


@pytest.mark.parametrize("cell", FEW)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("K", [1, 2])
def test_no_sequence_has_a_step(cell, reduction, K):
    for loss in LOSSES:
        p = model_of(cell, 4, 3, 4, 5, 3, 2, K, loss=loss, reduction=reduction, lengths=[0, 0, 0])
        found = loss_and_grad(p)
        assert found.value == p.model.loss(p.x, p.y, p.state, lengths=p.lengths)[0] == 0
        assert not found.g.flat.any()
        assert bits(found.state) == bits(p.state)
        assert not p.model(p.x, p.state, lengths=p.lengths)[0].any()


@pytest.mark.parametrize("cell", FEW)
def test_last_only_reads_both_directions_final_states(cell):
    """Forwards the state at each sequence's end, in reverse the one at its first step."""
    p = model_of(cell, 7, 9, 4, 9, 5, 2, 2, lengths=RAGGED, last_only=True)
    prediction, state = p.model(p.x, p.state, lengths=RAGGED)
    W, b = (p.model.parameters[f"output.{name}"] for name in ("weight", "bias"))
    assert W.shape == (5, 2 * state_size(p.layer))
    h = parts(state)[0]
    assert_close(prediction, np.concatenate([h[2], h[3]], axis=1) @ W.T + b)


# ---- What goes with a model -----------------------------------------------------------------------------


@pytest.mark.parametrize("cell", FEW)
@pytest.mark.parametrize("L", [1, 3])
@pytest.mark.parametrize("cut", [1, 4, 8])
def test_a_carried_state_makes_the_whole_sequence(cell, L, cut):
    p = model_of(cell, 9, 5, 4, 9, 5, L, reduction="sum", tokens=True)
    whole = loss_and_grad(p)
    first, _, state = p.model.loss_and_grad(p.x[:cut], p.y[:cut], p.state)
    second, g, last = p.model.loss_and_grad(p.x[cut:], p.y[cut:], state, hidden=True)
    assert_close(first + second, whole.value)
    for a, b in zip(parts(last), parts(whole.state), strict=True):
        assert_close(a, b)
    assert_close(g.hidden, whole.g.hidden[:, cut:])
    predictions = p.model(p.x[:cut], p.state)[0], p.model(p.x[cut:], state)[0]
    assert_close(np.concatenate(predictions), p.model(p.x, p.state)[0])


@pytest.mark.parametrize("cell", EVERY)
@pytest.mark.parametrize("structure", [(1, 1), (2, 2)])
@pytest.mark.parametrize("copied", ["pickle", "deepcopy"])
def test_a_copy_is_the_same_model_in_memory_of_its_own(cell, structure, copied):
    dropout = 0.5 if structure[0] > 1 else 0  # acts between layers
    p = model_of(cell, 6, 5, 4, 9, 5, *structure, lengths=[6, 2, 0, 4, 6], dropout=dropout)
    q = SimpleNamespace(**vars(p))
    q.model = pickle.loads(pickle.dumps(p.model)) if copied == "pickle" else copy.deepcopy(p.model)
    assert repr(q.model) == repr(p.model)
    before, other = (loss_and_grad(each, seed=4) for each in (p, q))
    assert bits(before.value, before.g, before.state) == bits(other.value, other.g, other.state)
    q.model.flat += 1
    assert np.shares_memory(q.model.layer.flat, q.model.flat)
    assert bits(q.model.layer.flat) == bits(q.model.flat[: q.model.layer.flat.size])
    after = loss_and_grad(p, seed=4)
    assert bits(after.value, after.g) == bits(before.value, before.g)

    layer = problem(cell, 6, 5, 4, 9, *structure).layer
    twin = pickle.loads(pickle.dumps(layer)) if copied == "pickle" else copy.deepcopy(layer)
    assert repr(twin) == repr(layer)
    assert bits(*twin(p.x, p.state)) == bits(*layer(p.x, p.state))
    assert not np.shares_memory(twin.flat, layer.flat)


@pytest.mark.parametrize("cell", FEW)
def test_the_seed_and_training_decide_the_dropout(cell):
    p = model_of(cell, 6, 5, 4, 9, 5, 2, dropout=0.5)
    first, again, other = (loss_and_grad(p, seed=seed) for seed in (1, 1, 2))
    assert bits(first.value, first.g) == bits(again.value, again.g)
    assert first.value != other.value
    assert loss_and_grad(p).value != loss_and_grad(p).value
    plain = loss_and_grad(p, training=False)
    assert plain.value == p.model.loss(p.x, p.y, p.state)[0] != first.value
    p.mask = np.ones((1, 6, 5, state_size(p.layer)))
    assert bits(loss_and_grad(p).g) == bits(plain.g)
    p.mask = drawn_mask(p.layer, 6, 5, seed=1)
    assert bits(loss_and_grad(p).g) == bits(first.g)
    value, state = p.model.loss(p.x, p.y, p.state, dropout_mask=p.mask)
    assert bits(value, state) == bits(first.value, first.state)


@pytest.mark.parametrize("cell", CELLS)
def test_objects_say_what_they_are(cell):
    layer = problem(cell, 1, 1, 3, 8, 2, 2, clip=2.5, dropout=0.25, bias=False).layer
    kind, own = CELLS[cell]
    lstm = {"peephole": False, "coupled": False, "proj_size": 4 if "projected" in cell else 0}
    defaults = {"RNN": {"nonlinearity": "tanh"}, "LSTM": lstm}
    options = defaults.get(kind, {"reset_after": True}) | {n: own[n] for n in own if n != "projected"}
    options |= {"bias": False, "batch_first": False, "dropout": 0.25, "bidirectional": True, "clip": 2.5}
    text = ", ".join(f"{name}={value!r}" for name, value in (options | {"dtype": "float64"}).items())
    assert repr(layer) == f"{kind}(3, 8, 2, {text})"
    again = eval(repr(layer), {kind: getattr(pybptt, kind)})
    assert repr(again) == repr(layer)
    assert again.flat.shape == layer.flat.shape


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_descending_the_gradient_lowers_the_loss(cell):
    p = model_of(
        cell, 12, 8, 6, 16, 6, 2, 2, tokens=True, dtype="float32", dropout=0.1, lengths=[12] * 4 + [5] * 4
    )
    p.y = (p.x + np.roll(p.x, 1, axis=0)) % 6
    first = p.model.loss(p.x, p.y, lengths=p.lengths)[0]
    adam = pybptt.optim.Adam(p.model.flat, lr=0.02)
    for seed in range(150):
        _, g, _ = p.model.loss_and_grad(p.x, p.y, lengths=p.lengths, seed=seed)
        adam.step(pybptt.clip_by_norm(g.flat, 1.0))
    assert first > 1.5
    assert p.model.loss(p.x, p.y, lengths=p.lengths)[0] < 0.3


# ---- Memory ---------------------------------------------------------------------------------------------

TAPES = [(0, 3), (3, 0), (1, 1), (7, 5), (40, 33), (530, 1), (3, 545)]


@pytest.mark.parametrize("cell", EVERY)
@pytest.mark.parametrize(("L", "K"), [(1, 1), (1, 2), (3, 1), (2, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tape_bytes_is_what_a_tape_holds(cell, L, K, dtype):
    for (T, B), tokens, ragged in itertools.product(TAPES, FLAGS, FLAGS):
        p = problem(cell, T, B, 5, 17 if tokens else 1, L, K, tokens=tokens, dtype=dtype)
        lengths = np.random.default_rng(T).integers(0, T + 1, size=B) if ragged else None
        _, _, tape = p.layer.forward(p.x, p.state, lengths=lengths)
        assert tape.nbytes == p.layer.tape_bytes(T, B, lengths=lengths, tokens=tokens)


@pytest.mark.parametrize("cell", FEW)
def test_a_drawn_mask_and_cells_come_on_top(cell):
    p = problem(cell, 20, 6, 5, 9, 3, 2, dropout=0.5)
    _, _, tape = forward(p, training=True)
    mask = 8 * 2 * 20 * 6 * 2 * state_size(p.layer)
    cells = 8 * 6 * 20 * 6 * 9 * (p.d_cells is not None)
    assert tape.nbytes == p.layer.tape_bytes(20, 6) + mask + cells
    assert (tape.steps, tape.batch) == (20, 6)
    assert repr(tape) == f"Tape(steps=20, batch=6, nbytes={tape.nbytes})"
    backward(p, tape)
    assert tape.nbytes == p.layer.tape_bytes(20, 6) + mask + cells


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("cell", "S", "G"),
    [("rnn", 1, 1), ("lstm", 6, 4), ("lstm-coupled", 5, 3), ("lstm-projected", 6, 4), ("gru", 5, 3),
     ("gru-before", 5, 3)],
)  # fmt: skip
def test_the_formula_of_tape_bytes(cell, S, G, dtype):
    """T B (S H + N) numbers, of h and c B rows more a chunk, two matrices; H and N in whole cache lines.

    With a projection h, of P, is one more, and W_hr another matrix.
    """
    T, B, D, H, bytes_ = 1280, 4, 40, 60, np.dtype(dtype).itemsize
    lanes = 64 // bytes_
    layer = problem(cell, 1, 1, D, H, 2, 2, dtype=dtype).layer
    P = state_size(layer)
    padded = {n: -(-n // lanes) * lanes for n in (D, H, P, 2 * P)}
    wanted = 0
    for N in (D, 2 * P):
        row = S * padded[H] + padded[N]
        chunks = T * B / 512 * B * (padded[P] + ("lstm" in cell) * padded[H])
        weights = G * H * (padded[P] + padded[N])
        if P != H:
            row, weights = row + padded[P], weights + P * padded[H]
        wanted += 2 * (T * B * row + chunks + weights)
    assert abs(layer.tape_bytes(T, B) - wanted * bytes_) < 0.02 * wanted * bytes_


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_bad_arguments_of_tape_bytes(cell):
    layer = problem(cell, 1, 1, 4, 9).layer
    for arguments, error, text in (
        ((-1, 2), ValueError, "steps: expected at least 0, got -1"),
        ((2, -1), ValueError, "batch: expected at least 0, got -1"),
        ((2.0, 1), TypeError, "steps: expected an integer, got float"),
        ((2, True), TypeError, "batch: expected an integer, got bool"),
        ((2**40, 2**40), MemoryError, ""),
        ((2**70, 1), MemoryError, ""),
    ):
        with pytest.raises(error, match=f"^{text}"):
            layer.tape_bytes(*arguments)
