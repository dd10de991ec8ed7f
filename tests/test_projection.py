"""LSTM with recurrent projection (`proj_size`): what the tests of all cells, with P = H // 2, do not try.

PyTorch is the judge where it has the network, pybptt.reference of the options that PyTorch lacks.
"""

import gc
import itertools
import re

import numpy as np
import pytest
from cell_support import FLAGS, assert_same, by_reference, by_torch, parts, problem, run, torch_cells
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_close, bits
from truncation_support import assert_same as assert_same_truncated
from truncation_support import backward, backward_by_reference

import pybptt

MODULES_LACK = ("hidden", "cells")
# H and P in every place of a panel of 8 or 16 columns: at its edges, one less, one more.
EDGES = (1, 7, 8, 9, 15, 16, 17, 31, 33)
PAIRS = [(H, P) for H in EDGES[1:] for P in sorted({*EDGES, H - 1}) if P < H]


# ---- PyTorch --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("H", "P"), PAIRS)
@pytest.mark.parametrize(("L", "K"), [(1, 1), (2, 2)])
def test_agrees_with_autograd_for_any_size(torch, H, P, L, K):
    """Of a batch of 5, ragged or not; with biases or without; from all that a loss may be of."""
    for bias, lengths in itertools.product(FLAGS, (None, [4, 7, 0, 1, 7])):
        p = problem("lstm", 7, 5, 6, H, L, K, proj_size=P, bias=bias, lengths=lengths, mask=L > 1)
        p.d_cells[...] = 0  # the modules don't return c_t
        assert_same(run(p), by_torch(torch, p), without=MODULES_LACK)


@settings(max_examples=100)
@given(T=st.integers(0, 20), B=st.integers(1, 33), D=st.sampled_from(EDGES), L=st.integers(1, 3),
       K=st.sampled_from([1, 2]), pair=st.sampled_from(PAIRS), bias=st.booleans(), tokens=st.booleans(),
       ragged=st.booleans(), batch_first=st.booleans(), seed=st.integers(0, 1000))  # fmt: skip
def test_agrees_with_autograd_for_any_network(
    torch, T, B, D, L, K, pair, bias, tokens, ragged, batch_first, seed
):
    lengths = np.random.default_rng(seed).integers(0, T + 1, size=B) if ragged else None
    options = {"proj_size": pair[1], "bias": bias, "tokens": tokens, "lengths": lengths, "seed": seed}
    p, q = (
        problem("lstm", T, B, D, pair[0], L, K, batch_first=flag, **options) for flag in (False, batch_first)
    )
    p.d_cells[...] = q.d_cells[...] = 0
    if T == 0:  # PyTorch takes no empty sequences
        assert_same(run(p), by_reference(p))
        return
    if batch_first:
        q.x, q.d_output = q.x.swapaxes(0, 1), q.d_output.swapaxes(0, 1)
    found = run(q)
    if batch_first:
        found.output = found.output.swapaxes(0, 1)
        found.g.input = None if tokens else found.g.input.swapaxes(0, 1)
    assert_same(found, by_torch(torch, p), without=MODULES_LACK, floor=1e-2)


@pytest.mark.parametrize(("T", "B"), [(129, 1), (1100, 1), (200, 3), (5, 15), (9, 64), (2, 545)])
@pytest.mark.parametrize("tokens", FLAGS)
def test_agrees_with_autograd_however_time_and_batch_are_cut(torch, T, B, tokens):
    """With hidden gradients, and losses by h_t, by the final state and by every c_t."""
    p = problem("lstm", T, B, 3, 9, proj_size=5, tokens=tokens)
    assert_same(run(p), torch_cells(torch, p))


@pytest.mark.parametrize(
    ("D", "H", "P"), [(1, 2, 1), (65, 100, 30), (200, 129, 128), (120, 300, 17), (9, 512, 200)]
)
@pytest.mark.parametrize("B", [1, 4, 13, 32])
def test_agrees_with_autograd_for_larger_layers(torch, D, H, P, B):
    p = problem("lstm", 6, B, D, H, proj_size=P)
    assert_same(run(p), torch_cells(torch, p))


@pytest.mark.parametrize("bias", FLAGS)
@pytest.mark.parametrize("bidirectional", FLAGS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_a_pytorch_state_dict_fits(torch, bias, bidirectional, dtype):
    options = {"bias": bias, "bidirectional": bidirectional, "proj_size": 3}
    layer = pybptt.LSTM(5, 6, 3, dtype=dtype, seed=0, **options)
    module = torch.nn.LSTM(5, 6, 3, dtype=getattr(torch, dtype), **options)
    theirs = module.state_dict()
    ours = {name: array.shape for name, array in layer.parameters.items()}
    assert list(ours.items()) == [(name, tuple(tensor.shape)) for name, tensor in theirs.items()]
    layer.load_parameters(theirs)
    assert bits(*layer.parameters.values()) == bits(*(tensor.numpy() for tensor in theirs.values()))
    x = np.random.default_rng(0).normal(size=(7, 4, 5)).astype(dtype)
    with torch.no_grad():
        expected = module(torch.from_numpy(x))[0].numpy()
    assert_close(layer(x)[0], expected, 1e-12 if dtype == "float64" else 1e-5)
    without = {name: tensor for name, tensor in theirs.items() if "weight_hr" not in name}
    with pytest.raises(ValueError, match=r"^mapping: missing: weight_hr_l0, "):
        layer.load_parameters(without)


# ---- The reference: what PyTorch does not have -----------------------------------------------------------


@pytest.mark.parametrize("peephole", FLAGS)
@pytest.mark.parametrize("coupled", FLAGS)
@pytest.mark.parametrize("clip", [None, 0.4])
def test_agrees_with_the_reference_whatever_the_options(peephole, coupled, clip):
    options = {"peephole": peephole, "coupled": coupled, "clip": clip, "mask": True}
    for (H, P), (L, K), tokens in itertools.product([(9, 8), (17, 3), (33, 16)], [(1, 1), (3, 2)], FLAGS):
        p = problem("lstm", 9, 13, 4, H, L, K, proj_size=P, tokens=tokens, **options)
        p.layer.flat *= 2
        assert_same(run(p), by_reference(p))


TRUNCATED = {
    "full": {},
    "windows": {"k1": 3, "k2": 7},
    "blocks": {"k1": 4, "k2": 4},
    "left out": {"k1": 5, "k2": 2},
}


@pytest.mark.parametrize("clip_hidden", [None, ("norm", 0.3), ("value", 0.05)], ids=str)
@pytest.mark.parametrize("style", TRUNCATED)
def test_truncation_and_clipping_are_of_the_projected_h(style, clip_hidden):
    """dL/dh_t is clipped, P numbers of it, before it goes back through W_hr."""
    k = TRUNCATED[style]
    for (H, P), lengths in itertools.product([(9, 8), (33, 7)], (None, [13, 0, 5, 12, 1])):
        p = problem("lstm", 13, 5, 4, H, 2, proj_size=P, lengths=lengths)
        truncation = pybptt.TBPTT(**k) if k else None
        found = backward(p, truncation, clip_hidden)
        assert_same_truncated(found, backward_by_reference(p, **k, clip_hidden=clip_hidden))
    assert clip_hidden is None or bits(found.g) != bits(backward(p, truncation).g)


# ---- What a projection means ----------------------------------------------------------------------------


def test_a_projection_onto_units_leaves_the_others_out():
    """W_hr = (1 0): h_t is that of the first P units, and W_hh of an LSTM without it has 0 for the others."""
    p, q = problem("lstm", 9, 5, 4, 13, proj_size=6), problem("lstm", 9, 5, 4, 13)
    p.layer.parameters["weight_hr_l0"][...] = np.eye(6, 13)
    for name, array in q.layer.parameters.items():
        array[...] = 0
        array[..., : p.layer.parameters[name].shape[-1]] = p.layer.parameters[name]
    q.x, q.d_cells = p.x, p.d_cells
    for name in ("state", "d_state"):
        h, c = getattr(p, name)
        setattr(q, name, (np.pad(h, ((0, 0), (0, 0), (0, 7))), c))
    q.d_output = np.pad(p.d_output, ((0, 0), (0, 0), (0, 7)))
    projected, full = run(p), run(q)
    assert_close(projected.output, full.output[..., :6])
    for name in ("cells", "g.hidden"):
        a, b = (getattr(r.g if "." in name else r, name.split(".")[-1]) for r in (projected, full))
        assert_close(a, b[..., : a.shape[-1]])
    assert_close(projected.g.input, full.g.input)
    for name, gradient in full.g.parameters.items():
        assert_close(projected.g.parameters[name], gradient[..., : 6 if "weight_hh" in name else None])
    # dW_hr = sum_t dh_t m_t^T, and without a projection m_t is h_t
    expected = np.einsum("tbp,tbh->ph", projected.g.hidden[0], full.output)
    assert_close(projected.g.parameters["weight_hr_l0"], expected)


def test_initial_parameters_are_pytorchs_distribution():
    """Uniform over (-1/sqrt(H), 1/sqrt(H)), W_hr too."""
    lstm = pybptt.LSTM(50, 100, proj_size=80, seed=3)
    for values in lstm.parameters.values():
        assert 0.09 < np.abs(values).max() <= np.float32(0.1)


def test_a_stream_in_one_window_is_the_whole_sequence():
    model = pybptt.SequenceModel(pybptt.LSTM(7, 9, 2, proj_size=4, dtype="float64", seed=0), 7, seed=1)
    tokens = np.random.default_rng(0).integers(7, size=(31, 3))
    loss, gradients, state = model.loss_and_grad(tokens[:-1], tokens[1:])
    (step,) = model.stream(tokens[:-1], tokens[1:], truncation=pybptt.TBPTT(30, 30))
    assert bits(step.loss, step.gradients, step.state) == bits(loss, gradients, state)
    halves = list(model.stream(tokens[:-1], tokens[1:], truncation=pybptt.TBPTT(15, 15)))
    for found, expected in zip(parts(halves[-1].state), parts(state), strict=True):
        assert_close(found, expected)


# ---- Memory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("T", "B"), [(30, 12), (200, 12)])
def test_what_lies_in_memory_does_not_matter(T, B):
    """The core uses memory again as it finds it: here NaN is where dL/dh_t is 0 past a sequence's end."""
    p = problem("lstm", T, B, 4, 40, proj_size=20, lengths=[T - 3] + [T] * (B - 1))
    poison = problem("lstm", T, B, 4, 40, proj_size=20)
    for array in (poison.layer.flat, poison.x, poison.d_output):
        array[...] = np.nan
    expected = bits(run(p).g)
    for _ in range(3):
        run(poison)
        gc.collect()
        assert bits(run(p).g) == expected


# ---- Errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proj_size", "error", "message"),
    [
        (8, ValueError, "proj_size: expected less than hidden_size = 8, got 8"),
        (2**70, ValueError, "proj_size: expected less than hidden_size = 8, got 1180591620717411303424"),
        (-1, ValueError, "proj_size: expected at least 0, got -1"),
        (2.0, TypeError, "proj_size: expected an integer, got float"),
        (True, TypeError, "proj_size: expected an integer, got bool"),
        (None, TypeError, "proj_size: expected an integer, got NoneType"),
        ("3", TypeError, "proj_size: expected an integer, got str"),
    ],
)
def test_bad_sizes(proj_size, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        pybptt.LSTM(3, 8, proj_size=proj_size)
    for cell in (pybptt.RNN, pybptt.GRU):
        with pytest.raises(TypeError, match="proj_size"):
            cell(3, 8, proj_size=2)


def test_states_of_another_size_are_refused():
    lstm = pybptt.LSTM(3, 8, 2, proj_size=5, seed=0)
    x = np.zeros((4, 2, 3), dtype=np.float32)
    h, c = np.zeros((2, 2, 5), dtype=np.float32), np.zeros((2, 2, 8), dtype=np.float32)
    output, _, tape = lstm.forward(x, (h, c))
    for message, call in (
        ("state[0]: expected shape (2, 2, 5), got (2, 2, 8)", lambda: lstm(x, (c, c))),
        ("state[1]: expected shape (2, 2, 8), got (2, 2, 5)", lambda: lstm(x, (h, h))),
        ("d_state[0]: expected shape (2, 2, 5), got ", lambda: lstm.backward(tape, output, (c, c))),
        ("d_output: expected shape (4, 2, 5), got ", lambda: lstm.backward(tape, np.zeros((4, 2, 8), "f4"))),
        ("dropout_mask: expected shape (1, 4, 2, 5), got ",
         lambda: lstm.forward(x, dropout_mask=np.ones((1, 4, 2, 8), "f4"))),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="^" + re.escape(message)):
            call()
