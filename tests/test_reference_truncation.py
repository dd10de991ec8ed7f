"""pybptt.reference's truncated gradients against PyTorch's autograd going through each window by itself."""

import numpy as np
import pytest
from cell_support import PYTORCHS, problem
from support import assert_close
from truncation_support import (
    RAGGED,
    STYLES,
    T,
    assert_gradients,
    backward_by_reference,
    by_torch,
    loss_by_reference,
    model_problem,
)

from pybptt import reference

CLIPS = (("norm", 0.7), ("value", 0.4))


def test_windows_by_hand():
    """TBPTT(3, 5) of 8 steps, TBPTT(3, 2) of 7, TBPTT(2, 2) of 3: the last of these overlaps."""
    r = range
    assert reference.windows(8, 3, 5) == [(3, r(1, 4), r(1, 4)), (6, r(4, 7), r(2, 7)), (8, r(7, 9), r(4, 9))]
    assert reference.windows(7, 3, 2) == [(3, r(2, 4), r(2, 4)), (6, r(5, 7), r(5, 7)), (7, r(7, 8), r(6, 8))]
    assert reference.windows(3, 2, 2) == [(2, r(1, 3), r(1, 3)), (3, r(3, 4), r(2, 4))]
    assert reference.windows(0, 2, 2) == [(0, r(1, 1), r(1, 1))]
    for k1, k2 in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="expected at least 1, got 0"):
            reference.windows(3, k1, k2)


@pytest.mark.parametrize(("k1", "k2"), STYLES)
@pytest.mark.parametrize("cell", PYTORCHS)
def test_windows_agree_with_autograd(torch, cell, k1, k2):
    """Gradients by parameters, input, initial state and all h_t: sums over windows run from detached states.

    Stacks of 1 to 3 layers with a dropout mask, ragged, with derivatives by final states and cells.
    """
    L = 1 + STYLES.index((k1, k2)) % 3
    p = problem(cell, T, 4, 3, 4, L, lengths=[13, 5, 0, 12], mask=True, tokens=k1 == 4)
    assert_gradients(backward_by_reference(p, k1, k2).g, by_torch(torch, p, k1, k2).g)


@pytest.mark.parametrize(("k1", "k2"), STYLES)
@pytest.mark.parametrize("last_only", [False, True])
def test_losses_agree_with_autograd(torch, k1, k2, last_only):
    """Loss, targets not reached, and gradients, the output layer's among them."""
    i = STYLES.index((k1, k2))
    options = {"loss": ("mse", "cross_entropy")[i % 2], "reduction": ("mean", "sum")[i // 2 % 2]}
    p = model_problem("gru", T, 4, 3, 4, 5, 2, lengths=[13, 5, 0, 12], last_only=last_only, **options)
    found, expected = loss_by_reference(p, k1, k2), by_torch(torch, p, k1, k2)
    assert_close(found.output, expected.loss)
    assert found.unreached == expected.unreached
    assert_gradients(found.g, expected.g)


def test_some_losses_are_not_reached():
    """TBPTT(5, 2) of 13 steps reaches 4, 5, 9, 10, 12, 13."""
    p = model_problem("rnn", 13, 2, 3, 4, 5)
    assert loss_by_reference(p, 5, 2).unreached == 2 * 7


@pytest.mark.parametrize("k", [0, 1, 4, 12, 20])
def test_one_loss_a_window_is_the_textbooks_truncation(k):
    """truncated_sweep with k1 = 1 against backward_two_loops: gradients by everything and all h_t."""
    p = problem("rnn", T, 3, 4, 5)
    _, _, tape = reference.forward(p.layer.parameters, p.x, p.state)
    expected = reference.backward_two_loops(tape, p.d_output, p.d_state, bptt_truncate=k)
    assert_gradients(backward_by_reference(p, 1, k + 1).g, expected)


@pytest.mark.parametrize("cell", PYTORCHS)
def test_factors_agree_with_autograd(torch, cell):
    """xi_t of every sequence, by states of which a part is detached; step 1 included."""
    p = problem(cell, 6, 3, 3, 4, 2, lengths=[6, 2, 5], mask=True)
    xi = np.random.default_rng(0).choice([0.0, 1.0, 1.5], size=(6, 3))
    assert len(set(xi[0])) > 1
    assert_gradients(backward_by_reference(p, xi=xi).g, by_torch(torch, p, 6, 6, xi=xi).g)


@pytest.mark.parametrize("clip_hidden", CLIPS)
@pytest.mark.parametrize("cell", PYTORCHS)
@pytest.mark.parametrize(("k1", "k2"), [(6, 6), (1, 6), (2, 3), (3, 2)])
def test_clipping_agrees_with_autograd(torch, cell, clip_hidden, k1, k2):
    """Hooks on every h_t in place of clip_rows; each window is clipped by itself, TBPTT(1, T)'s too."""
    p = problem(cell, 6, 3, 3, 4, 2, lengths=[6, 2, 5], mask=True)
    found = backward_by_reference(p, k1, k2, clip_hidden=clip_hidden).g
    assert_gradients(found, by_torch(torch, p, k1, k2, clip_hidden=clip_hidden).g)
    unclipped = backward_by_reference(p, k1, k2).g
    assert not np.allclose(found.hidden, unclipped.hidden, rtol=0.01)


def test_clipping_both_directions(torch):
    """Of each direction by itself: two layers of one direction, one of which reads the sequence backwards."""
    p = problem("gru", 5, 2, 3, 4, 1, 2)
    found = backward_by_reference(p, clip_hidden=("norm", 0.7)).g
    for k, end in enumerate(("", "_reverse")):
        order = slice(None, None, 1 - 2 * k)
        q = problem("gru", 5, 2, 3, 4)
        for name, value in q.layer.parameters.items():
            value[...] = p.layer.parameters[name + end]
        q.x, q.state, q.d_state = p.x[order], p.state[k : k + 1], p.d_state[k : k + 1]
        q.d_output = p.d_output[order, :, 4 * k : 4 * k + 4]
        expected = by_torch(torch, q, 5, 5, clip_hidden=("norm", 0.7)).g
        assert_close(found.hidden[k], expected.hidden[0, order])
        assert_close(found.parameters["weight_hh_l0" + end], expected.parameters["weight_hh_l0"])


def test_errors():
    p = problem("gru", 3, 2, 3, 4, 1, 2)
    with pytest.raises(ValueError, match="xi: expected layers of one direction"):
        backward_by_reference(p, xi=np.ones((3, 2)))
    with pytest.raises(ValueError, match="xi: expected layers of one direction"):
        backward_by_reference(p, 1, 2)
    with pytest.raises(ValueError, match=r"xi: expected shape \(3, 2\), got \(3,\)"):
        backward_by_reference(problem("gru", 3, 2, 3, 4), xi=np.ones(3))
    with pytest.raises(ValueError, match="clip_hidden: expected one of norm, value, got 'max'"):
        backward_by_reference(p, clip_hidden=("max", 1.0))
    with pytest.raises(ValueError, match="clip_hidden: expected a limit of more than 0, got 0"):
        backward_by_reference(p, clip_hidden=("norm", 0))


def test_ragged_windows_are_each_sequences_own():
    """A batch against its sequences alone, cut to their lengths: all gradients and h_t."""
    p = problem("lstm", T, len(RAGGED), 3, 4, lengths=RAGGED)
    whole = backward_by_reference(p, 3, 5).g
    total = 0
    for b, T_b in enumerate(RAGGED):
        q = problem("lstm", T, 1, 3, 4)
        q.layer = p.layer
        one = slice(b, b + 1)
        q.x, q.d_output, q.d_cells = p.x[:T_b, one], p.d_output[:T_b, one], p.d_cells[:, :T_b, one]
        q.state, q.d_state = (tuple(s[:, one] for s in pair) for pair in (p.state, p.d_state))
        alone = backward_by_reference(q, 3, 5).g
        assert_close(whole.hidden[:, :T_b, one], alone.hidden)
        assert_close(whole.state[1][:, one], alone.state[1])
        total = total + alone.parameters["weight_hh_l0"]
    assert_close(whole.parameters["weight_hh_l0"], total)
