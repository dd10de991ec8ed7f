"""RNN, forward and backward, against PyTorch's float64 autograd and against pybptt.reference."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import (
    NONLINEARITIES,
    assert_close,
    assert_gradients_close,
    autograd,
    bits,
    layer_problem,
    run_layer,
)

import pybptt
from pybptt import reference

FLAGS = (False, True)
# Time is cut into chunks of 128 to 512 rows (T B): one row less, that many, one more, several, a short last
# one; the batch into slices: one, two, unequal ones, the most there may be, large ones.
CHUNKS = [(127, 1), (128, 1), (129, 1), (255, 1), (256, 1), (257, 1), (513, 1), (600, 1), (1100, 1), (90, 3),
          (130, 8), (3, 512), (2, 513)]  # fmt: skip
SLICES = [(5, 7), (5, 8), (5, 15), (5, 16), (20, 17), (5, 25), (6, 64), (5, 97), (3, 127), (3, 128), (2, 129),
          (4, 300), (3, 545)]  # fmt: skip


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("bias", FLAGS)
@pytest.mark.parametrize("tokens", FLAGS)
def test_agrees_with_autograd(torch, nonlinearity, bias, tokens):
    p = layer_problem(9, 5, 7, 13, nonlinearity=nonlinearity, bias=bias, tokens=tokens)
    for state in (None, p.state):
        output, last, tape = p.rnn.forward(p.x, state)
        for upstream in ((p.d_output, None), (None, p.d_state), (p.d_output, p.d_state)):
            expected = autograd(torch, p.rnn, p.x, state, *upstream)
            assert_close(output, expected[0])
            assert_close(last, expected[1])
            assert_gradients_close(p.rnn.backward(tape, *upstream), expected[2])


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("tokens", FLAGS)
def test_hidden_is_what_autograd_retains(torch, nonlinearity, tokens):
    p = layer_problem(8, 3, 4, 9, nonlinearity=nonlinearity, tokens=tokens)
    _, _, g = run_layer(p)
    assert_gradients_close(g, autograd(torch, p.rnn, p.x, p.state, p.d_output, p.d_state, hidden=True)[2])


@pytest.mark.parametrize(("T", "B"), CHUNKS + SLICES)
@pytest.mark.parametrize("tokens", FLAGS)
def test_agrees_with_autograd_however_time_and_batch_are_cut(torch, T, B, tokens):
    p = layer_problem(T, B, 3, 5, tokens=tokens)
    output, last, g = run_layer(p)
    expected = autograd(torch, p.rnn, p.x, p.state, p.d_output, p.d_state)
    assert_close(output, expected[0])
    assert_close(last, expected[1])
    _, _, tape = reference.forward(p.rnn.parameters, p.x, p.state)
    expected[2].hidden = reference.backward(tape, p.d_output, p.d_state).hidden
    assert_gradients_close(g, expected[2])


@pytest.mark.parametrize(("D", "H"), [(1, 1), (65, 100), (200, 257), (300, 33)])
@pytest.mark.parametrize("B", [1, 4, 13, 32])
def test_agrees_with_autograd_for_larger_layers(torch, D, H, B):
    p = layer_problem(12, B, D, H)
    output, _, tape = p.rnn.forward(p.x, p.state)
    expected = autograd(torch, p.rnn, p.x, p.state, p.d_output, p.d_state)
    assert_close(output, expected[0])
    assert_gradients_close(p.rnn.backward(tape, p.d_output, p.d_state), expected[2])


# A panel is 8 or 16 columns, a tile up to 12 rows: each of them, one less, one more; primes; nothing.
SIZES = st.sampled_from([1, 2, 3, 5, 7, 8, 9, 11, 12, 13, 15, 16, 17, 23, 24, 25, 31, 32, 33, 37])
SIZES_WITH_0 = st.one_of(st.sampled_from([0, 1, 2]), SIZES)


@settings(max_examples=250)
@given(T=SIZES_WITH_0, B=SIZES_WITH_0, D=SIZES, H=SIZES, tokens=st.booleans(), bias=st.booleans(),
       nonlinearity=st.sampled_from(NONLINEARITIES), seed=st.integers(0, 1000))  # fmt: skip
@example(T=17, B=33, D=9, H=17, tokens=False, bias=True, nonlinearity="tanh", seed=0)
def test_agrees_with_the_reference_for_any_shape(T, B, D, H, tokens, bias, nonlinearity, seed):
    p = layer_problem(T, B, D, H, tokens=tokens, bias=bias, nonlinearity=nonlinearity, seed=seed)
    output, last, g = run_layer(p)
    expected_output, expected_last, tape = reference.forward(p.rnn.parameters, p.x, p.state, nonlinearity)
    assert_close(output, expected_output, floor=1.0)
    assert_close(last, expected_last, floor=1.0)
    assert_gradients_close(g, reference.backward(tape, p.d_output, p.d_state), floor=1.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("T", "B", "H"), [(0, 3, 5), (3, 0, 5), (7, 2, 5), (100, 13, 33), (530, 1, 5)])
@pytest.mark.parametrize("tokens", FLAGS)
def test_inference_is_forward_to_the_last_bit(T, B, H, tokens, dtype):
    p = layer_problem(T, B, 4, H, tokens=tokens, dtype=dtype)
    for state in (None, p.state):
        output, last, _ = p.rnn.forward(p.x, state)
        assert bits(*p.rnn(p.x, state)) == bits(output, last)
        assert output.dtype == last.dtype == dtype
        assert (T == 0) or bits(output[-1]) == bits(last[0])


@pytest.mark.parametrize("tokens", FLAGS)
@pytest.mark.parametrize(
    ("T", "B", "cut"), [(9, 4, 1), (9, 4, 5), (9, 4, 9), (600, 1, 300), (600, 1, 512), (40, 20, 7)]
)
def test_a_sequence_cut_in_two_is_the_whole(T, B, cut, tokens):
    p = layer_problem(T, B, 3, 6, tokens=tokens)
    output, last, whole = run_layer(p)
    output_1, state_1, tape_1 = p.rnn.forward(p.x[:cut], p.state)
    output_2, state_2, tape_2 = p.rnn.forward(p.x[cut:], state_1)
    assert_close(np.concatenate([output_1, output_2]), output)
    assert_close(state_2, last)
    # Backward, the other way round: what the second part says of its first state is the first part's d_state.
    g_2 = p.rnn.backward(tape_2, p.d_output[cut:], p.d_state, hidden=True)
    g_1 = p.rnn.backward(tape_1, p.d_output[:cut], g_2.state, hidden=True)
    assert_close(g_1.flat + g_2.flat, whole.flat)
    assert_close(g_1.state, whole.state)
    assert_close(np.concatenate([g_1.hidden, g_2.hidden], axis=1), whole.hidden)
    if not tokens:
        assert_close(np.concatenate([g_1.input, g_2.input]), whole.input)


@pytest.mark.parametrize("tokens", FLAGS)
def test_nothing_upstream_gives_zeros(tokens):
    p = layer_problem(5, 3, 4, 9, tokens=tokens)
    _, _, tape = p.rnn.forward(p.x, p.state)
    g = p.rnn.backward(tape, hidden=True)
    for array in (g.flat, g.state, g.hidden, *([] if tokens else [g.input])):
        assert not array.any()


@pytest.mark.parametrize(("T", "B"), [(0, 3), (4, 0), (0, 0)])
@pytest.mark.parametrize("tokens", FLAGS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_steps_or_no_sequences(T, B, tokens, dtype):
    p = layer_problem(T, B, 4, 5, tokens=tokens, dtype=dtype)
    output, last, g = run_layer(p)
    assert output.shape == (T, B, 5)
    assert bits(last) == bits(p.state)
    assert not g.flat.any()
    assert bits(g.state) == bits(p.d_state)
    assert g.hidden.shape == (1, T, B, 5)
    assert g.input is None if tokens else g.input.shape == (T, B, 4)
    assert not p.rnn.forward(p.x)[1].any()


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("tokens", FLAGS)
def test_what_is_not_asked_for_is_not_there_and_changes_nothing(nonlinearity, tokens):
    p = layer_problem(6, 3, 4, 17, nonlinearity=nonlinearity, tokens=tokens)
    _, _, full = run_layer(p)
    _, _, tape = p.rnn.forward(p.x, p.state)
    plain = p.rnn.backward(tape, p.d_output, p.d_state)
    assert plain.hidden is None
    assert (plain.input is None) == tokens
    least = p.rnn.backward(tape, p.d_output, p.d_state, input=False)
    assert least.hidden is None
    assert least.input is None
    for g in (plain, least):
        assert bits(g.flat, g.state) == bits(full.flat, full.state)


def test_gradients_have_the_layers_layout():
    for bias in FLAGS:
        p = layer_problem(4, 2, 3, 5, bias=bias)
        _, _, g = run_layer(p)
        names = ["weight_ih_l0", "weight_hh_l0"] + bias * ["bias_ih_l0", "bias_hh_l0"]
        assert list(g.parameters) == list(p.rnn.parameters) == names
        assert bits(np.concatenate([a.ravel() for a in g.parameters.values()])) == bits(g.flat)
        assert all(np.shares_memory(a, g.flat) for a in g.parameters.values())
        for name, parameter in p.rnn.parameters.items():
            assert g.parameters[name].shape == parameter.shape


@pytest.mark.parametrize("tokens", FLAGS)
@pytest.mark.parametrize(("T", "B"), [(6, 3), (1, 4), (5, 1), (0, 2), (130, 8)])
def test_batch_first_is_the_same_with_axes_swapped(T, B, tokens):
    p = layer_problem(T, B, 4, 9, tokens=tokens)
    other = pybptt.RNN(4, 9, batch_first=True, dtype="float64", seed=0)
    assert bits(other.flat) == bits(p.rnn.flat)
    output, last, g = run_layer(p)
    swapped_output, swapped_last, tape = other.forward(p.x.swapaxes(0, 1), p.state)
    assert bits(swapped_output.swapaxes(0, 1), swapped_last) == bits(output, last)
    assert bits(other(p.x.swapaxes(0, 1), p.state)[0]) == bits(swapped_output)
    swapped = other.backward(tape, p.d_output.swapaxes(0, 1), p.d_state, hidden=True)
    assert bits(swapped.flat, swapped.state, swapped.hidden) == bits(g.flat, g.state, g.hidden)
    if not tokens:
        assert bits(swapped.input.swapaxes(0, 1)) == bits(g.input)


def test_initial_parameters_are_pytorchs_distribution(torch):
    """Uniform over (-1/sqrt(H), 1/sqrt(H)), and the same again for the same seed."""
    rnn = pybptt.RNN(50, 100, seed=3)
    theirs = torch.nn.utils.parameters_to_vector(torch.nn.RNN(50, 100).parameters()).detach().numpy()
    assert rnn.flat.dtype == np.float32
    assert theirs.size == rnn.flat.size == 15200
    for sample in (rnn.flat, theirs):
        assert np.abs(sample).max() <= np.float32(0.1)
        quantiles = np.quantile(sample * 10, [0.05, 0.25, 0.5, 0.75, 0.95])
        assert_close(quantiles, [-0.9, -0.5, 0, 0.5, 0.9], 0.04, floor=1.0)  # the median's sigma is 0.008
    assert bits(pybptt.RNN(50, 100, seed=3).flat) == bits(rnn.flat)
    assert bits(pybptt.RNN(50, 100, seed=4).flat) != bits(rnn.flat)
    assert bits(pybptt.RNN(50, 100).flat) != bits(pybptt.RNN(50, 100).flat)


def test_flat_and_parameters_are_the_same_memory(torch):
    p = layer_problem(5, 2, 3, 7)
    flat = p.rnn.flat
    p.rnn.flat -= 0.125
    assert p.rnn.flat is flat
    p.rnn.flat = np.arange(float(flat.size)) / flat.size
    assert p.rnn.flat is flat
    p.rnn.parameters["weight_hh_l0"][...] *= 0.25
    p.rnn.parameters["bias_ih_l0"][2] = -1
    assert bits(np.concatenate([a.ravel() for a in p.rnn.parameters.values()])) == bits(flat)
    assert_close(p.rnn(p.x)[0], autograd(torch, p.rnn, p.x)[0])


def test_flat_takes_a_pytorch_state_dict(torch):
    """Same names, shapes and order: parameters fit as they are."""
    module = torch.nn.RNN(6, 11, dtype=torch.float64)
    p = layer_problem(4, 3, 6, 11)
    assert [(name, tuple(v.shape)) for name, v in module.state_dict().items()] == [
        (name, v.shape) for name, v in p.rnn.parameters.items()
    ]
    p.rnn.flat = torch.nn.utils.parameters_to_vector(module.parameters()).detach().numpy()
    with torch.no_grad():
        assert_close(p.rnn(p.x)[0], module(torch.tensor(p.x))[0].numpy())
