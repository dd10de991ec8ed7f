"""pybptt.reference's networks of Elman, LSTM and GRU cells, against PyTorch's autograd in float64.

Where PyTorch has the network, the judge is its module; for all else it is `torch_network`, which takes one
sequence at a time, and finite differences. Arrays are compared relative to the largest entry of the expected.
"""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from support import NONLINEARITIES, assert_all_close, assert_close, torch_dense

from pybptt import reference

FLAGS = (False, True)
RNNS = [{"cell": "rnn", "nonlinearity": phi, "clip": clip} for phi in NONLINEARITIES for clip in (None, 0.7)]
LSTMS = [
    {"cell": "lstm", "peephole": peephole, "coupled": coupled, "clip": clip}
    for peephole, coupled, clip in itertools.product(FLAGS, FLAGS, (None, 0.7))
]
PROJECTED = [
    {"cell": "lstm", "peephole": peephole, "coupled": coupled, "clip": clip, "proj_size": P}
    for peephole, coupled, clip, P in ((False, False, None, 1), (True, False, 0.7, 1), (True, True, None, 3))
]
GRUS = [{"cell": "gru", "reset_after": after, "clip": clip} for after in FLAGS for clip in (None, 0.7)]
CELLS = RNNS + LSTMS + PROJECTED + GRUS


def name_of(options):
    return "-".join(f"{name}={value}" if name != "cell" else value for name, value in options.items())


def random_parameters(rng, D, H, L, K, *, cell, bias=True, peephole=False, coupled=False, proj_size=0):
    G = {"rnn": 1, "lstm": 3 if coupled else 4, "gru": 3}[cell]
    P = proj_size or H
    parameters = {}
    for k, end in itertools.product(range(L), ("", "_reverse")[:K]):
        shapes = {"weight_ih": (G * H, D if k == 0 else K * P), "weight_hh": (G * H, P)}
        if bias:
            shapes |= {"bias_ih": (G * H,), "bias_hh": (G * H,)}
        if proj_size:
            shapes |= {"weight_hr": (P, H)}
        if peephole:
            shapes |= {"weight_peephole": (G - 1, H)}
        parameters |= {f"{name}_l{k}{end}": rng.normal(size=shape) for name, shape in shapes.items()}
    return parameters


def random_problem(cell, T, B, D, H, L=1, K=1, *, lengths=None, tokens=False, bias=True, mask=False, seed=0,
                   **options):  # fmt: skip
    """Parameters, x and the options of `run`, and upstream derivatives; all entries of order 1."""
    rng = np.random.default_rng([seed, T, B, D, H, L, K])
    own = {name: options[name] for name in ("peephole", "coupled", "proj_size") if name in options}
    P = options.get("proj_size") or H

    def states():
        h, c = rng.normal(size=(L * K, B, P)), rng.normal(size=(L * K, B, H))
        return (h, c) if cell == "lstm" else h

    options |= {"num_layers": L, "bidirectional": K == 2, "lengths": lengths}
    options["state"] = states()
    options["dropout_mask"] = rng.choice([0.0, 1.0, 2.0], size=(L - 1, T, B, K * P)) if mask else None
    return SimpleNamespace(
        cell=cell,
        parameters=random_parameters(rng, D, H, L, K, cell=cell, bias=bias, **own),
        x=rng.integers(D, size=(T, B)) if tokens else rng.normal(size=(T, B, D)),
        options=options,
        d_output=rng.normal(size=(T, B, K * P)),
        d_state=states(),
        d_cells=rng.normal(size=(L * K, T, B, H)) if cell == "lstm" else None,
    )


def run(p, **changes):
    return reference.run(p.cell, p.parameters, p.x, **p.options | changes)


def as_pair(state):
    """h or (h, c), as a tuple of one or two arrays."""
    return state if isinstance(state, tuple) else (state,)


def assert_states_close(actual, expected, tolerance=1e-12):
    assert isinstance(actual, tuple) == isinstance(expected, tuple)
    for a, e in zip(as_pair(actual), as_pair(expected), strict=True):
        assert_close(a, e, tolerance)


# ---- Against PyTorch's own modules ----------------------------------------------------------------------


def torch_module(torch, p, leaves, x, state):
    """Output and final state of nn.RNN, nn.LSTM or nn.GRU, on packed sequences if there are lengths."""
    D = p.parameters["weight_ih_l0"].shape[1]
    H = len(p.parameters["weight_hh_l0"]) // {"rnn": 1, "lstm": 4, "gru": 3}[p.cell]
    options = {
        name: p.options[name] for name in ("num_layers", "bidirectional", "proj_size") if name in p.options
    }
    if p.cell == "rnn":
        options["nonlinearity"] = p.options["nonlinearity"]
    module = getattr(torch.nn, p.cell.upper())(
        D, H, bias="bias_ih_l0" in leaves, dtype=torch.float64, **options
    )
    assert [name for name, _ in module.named_parameters()] == list(leaves)
    if p.options["lengths"] is None:
        return torch.func.functional_call(module, leaves, (x, state))
    rnn_utils = torch.nn.utils.rnn
    packed = rnn_utils.pack_padded_sequence(x, torch.tensor(p.options["lengths"]), enforce_sorted=False)
    output, state = torch.func.functional_call(module, leaves, (packed, state))
    return rnn_utils.pad_packed_sequence(output, total_length=len(x))[0], state


def torch_arguments(torch, p):
    """Parameters, x and state as leaves."""
    leaves = {name: torch.tensor(a, requires_grad=True) for name, a in p.parameters.items()}
    x = torch_dense(torch, p.x, p.parameters["weight_ih_l0"].shape[1]).requires_grad_()
    return leaves, x, tuple(torch.tensor(s, requires_grad=True) for s in as_pair(p.options["state"]))


def assert_agrees(p, g, leaves, x, state):
    assert_all_close(g.parameters, {name: leaf.grad for name, leaf in leaves.items()})
    if p.x.ndim == 2:
        assert g.input is None
    else:
        assert_close(g.input, x.grad)
    for actual, leaf in zip(as_pair(g.state), state, strict=True):
        assert_close(actual, leaf.grad)


@pytest.mark.parametrize("lengths", [None, [3, 7, 1, 5]])
@pytest.mark.parametrize(("L", "K"), [(1, 1), (2, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("options", [RNNS[0], RNNS[2], LSTMS[0], PROJECTED[0], GRUS[2]], ids=name_of)
def test_agrees_with_pytorchs_modules(torch, options, L, K, lengths):
    for tokens, bias in itertools.product(FLAGS, repeat=2):
        p = random_problem(**options, T=7, B=4, D=3, H=5, L=L, K=K, lengths=lengths, tokens=tokens, bias=bias)
        leaves, x, state = torch_arguments(torch, p)
        output, final = torch_module(torch, p, leaves, x, state if p.cell == "lstm" else state[0])
        ends = [output, *as_pair(final)]
        torch.autograd.backward(ends, [torch.tensor(d) for d in (p.d_output, *as_pair(p.d_state))])

        result = run(p)
        for actual, expected in zip((result.output, *as_pair(result.state)), ends, strict=True):
            assert_close(actual, expected.detach())
        assert_agrees(p, reference.sweep(result.trace, p.d_output, p.d_state), leaves, x, state)


# ---- Against autograd through a plain loop, for what PyTorch's modules lack -------------------------------


def torch_step(torch, p, theta, x, h, c):
    """One step of one sequence: x (D,), h (P,) and c (H,)."""
    clip = p.options["clip"]
    cut = (lambda z: z) if clip is None else lambda z: z.clamp(-clip, clip)
    W_ih, W_hh, b_ih, b_hh = (theta.get(n, 0) for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    if p.cell == "rnn":
        z = cut(W_ih @ x + b_ih + W_hh @ h + b_hh)
        return (z if (phi := p.options["nonlinearity"]) == "identity" else getattr(torch, phi)(z)), c
    if p.cell == "gru":
        x_r, x_z, x_n = (W_ih @ x + b_ih).chunk(3)
        h_r, h_z, h_n = (W_hh @ h + b_hh).chunk(3)
        r, z = cut(x_r + h_r).sigmoid(), cut(x_z + h_z).sigmoid()
        reset = r * h_n if p.options["reset_after"] else W_hh[-len(h) :] @ (r * h) + b_hh[-len(h) :]
        return (1 - z) * cut(x_n + reset).tanh() + z * h, c
    z = (W_ih @ x + b_ih + W_hh @ h + b_hh).view(-1, len(c))
    peepholes = theta.get("weight_peephole", torch.zeros(3, len(c), dtype=torch.float64))
    i = cut(z[0] + peepholes[0] * c).sigmoid()
    f = 1 - i if p.options["coupled"] else cut(z[1] + peepholes[1] * c).sigmoid()
    c = f * c + i * cut(z[-2]).tanh()
    m = cut(z[-1] + peepholes[-1] * c).sigmoid() * cut(c).tanh()
    return theta["weight_hr"] @ m if "weight_hr" in theta else m, c


def torch_network(torch, p, leaves, x, state):
    """Output, final states, and by (run, t, b) all h_t and c_t, which keep their .grad; for biased cells."""
    T, B = p.x.shape[:2]
    lengths = [T] * B if p.options["lengths"] is None else p.options["lengths"]
    ends = ("", "_reverse") if p.options["bidirectional"] else ("",)
    h, c, final = {}, {}, []
    for layer in range(p.options["num_layers"]):
        runs = []
        for direction, end in enumerate(ends):
            runs.append(layer * len(ends) + direction)
            theta = {
                name.removesuffix(f"_l{layer}{end}"): leaf
                for name, leaf in leaves.items()
                if name.endswith(f"_l{layer}{end}")
            }
            for b in range(B):
                now = state[0][runs[-1], b], state[-1][runs[-1], b]
                steps = range(lengths[b])
                for t in reversed(steps) if end else steps:
                    now = torch_step(torch, p, theta, x[t][b], *now)
                    h[runs[-1], t, b], c[runs[-1], t, b] = now
                    now[0].retain_grad()
                final.append(now)
        zero = torch.zeros_like(state[0][0, 0])
        output = [[torch.cat([h.get((i, t, b), zero) for i in runs]) for b in range(B)] for t in range(T)]
        output = torch.stack([torch.stack(step) for step in output])
        x = output
        if p.options["dropout_mask"] is not None and layer < p.options["num_layers"] - 1:
            x = output * torch.tensor(p.options["dropout_mask"][layer])
    final = list(zip(*final, strict=True))[: len(state)]
    return output, [torch.stack(n).view(s.shape) for n, s in zip(final, state, strict=True)], h, c


def dense(shape, entries):
    array = np.zeros(shape)
    for index, tensor in entries.items():
        array[index] = tensor.detach()
    return array


STRUCTURES = {
    "plain": {"L": 1, "K": 1},
    "tokens": {"L": 1, "K": 2, "lengths": [2, 0, 4], "tokens": True},
    "all": {"L": 3, "K": 2, "lengths": [2, 0, 4], "mask": True},
}


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("options", CELLS, ids=name_of)
def test_agrees_with_autograd_of_a_plain_loop(torch, options, structure):
    p = random_problem(
        **options, T=4, B=3, D=3, H=4 if options.get("proj_size") else 2, **STRUCTURES[structure]
    )
    leaves, x, state = torch_arguments(torch, p)
    output, final, h, c = torch_network(torch, p, leaves, x, state)
    result = run(p)
    assert_close(result.output, output.detach())
    for actual, expected in zip(as_pair(result.state), final, strict=True):
        assert_close(actual, expected.detach())

    upstream = [(output, p.d_output), *zip(final, as_pair(p.d_state), strict=True)]
    if p.cell == "lstm":
        assert_close(result.cells, dense(p.d_cells.shape, c))
        upstream += [(c[index], p.d_cells[index]) for index in c]
    else:
        assert result.cells is None
    torch.autograd.backward([end for end, _ in upstream], [torch.tensor(d) for _, d in upstream])
    g = reference.sweep(result.trace, p.d_output, p.d_state, p.d_cells)
    assert_agrees(p, g, leaves, x, state)
    hidden = dense(g.hidden.shape, {index: tensor.grad for index, tensor in h.items()})
    assert_close(g.hidden, hidden)


# ---- Against finite differences, which need no PyTorch ---------------------------------------------------


@pytest.mark.parametrize(
    "options", [RNNS[1], LSTMS[5], LSTMS[7], PROJECTED[1], GRUS[1], GRUS[3]], ids=name_of
)
def test_agrees_with_finite_differences(options):
    p = random_problem(**options, T=3, B=3, D=2, H=2, L=2, lengths=[2, 0, 3], mask=True, seed=1)
    result = run(p)
    g = reference.sweep(result.trace, p.d_output, p.d_state, p.d_cells)

    def loss(point):
        state = tuple(point[name] for name in point if name.startswith("state"))
        state = state if p.cell == "lstm" else state[0]
        found = reference.run(p.cell, point, point["x"], **p.options | {"state": state})
        pairs = [(found.output, p.d_output), *zip(as_pair(found.state), as_pair(p.d_state), strict=True)]
        if p.cell == "lstm":
            pairs.append((found.cells, p.d_cells))
        return sum((a * d).sum() for a, d in pairs)

    state = {f"state[{i}]": part for i, part in enumerate(as_pair(p.options["state"]))}
    differences = reference.finite_differences(loss, p.parameters | {"x": p.x} | state)
    assert_close(g.input, differences.pop("x"), 1e-7)
    for name, part in zip(state, as_pair(g.state), strict=True):
        assert_close(part, differences.pop(name), 1e-7)
    assert_all_close(g.parameters, differences, 1e-7)


# ---- What options mean -----------------------------------------------------------------------------------


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_one_elman_layer_is_the_four_ways_network(nonlinearity):
    p = random_problem("rnn", T=6, B=3, D=2, H=4, nonlinearity=nonlinearity)
    output, last, tape = reference.forward(p.parameters, p.x, p.options["state"], nonlinearity)
    expected = reference.backward(tape, p.d_output, p.d_state)
    result = run(p)
    assert_close(result.output, output)
    assert_close(result.state, last)
    g = reference.sweep(result.trace, p.d_output, p.d_state)
    assert_all_close(g.parameters, expected.parameters)
    for name in ("input", "state", "hidden"):
        assert_close(getattr(g, name), getattr(expected, name))


def test_the_grus_two_forms_differ():
    """But not in a first step from zero without biases, where the reset gate has nothing to reset."""
    forms = [random_problem("gru", T=2, B=2, D=3, H=4, bias=False, reset_after=after) for after in FLAGS]
    before, after = (run(p, state=None) for p in forms)
    assert_close(before.output[0], after.output[0])
    assert np.abs(before.output[1] - after.output[1]).max() > 1e-3
    biased = [random_problem("gru", T=1, B=2, D=3, H=4, reset_after=after) for after in FLAGS]
    before, after = (run(p, state=None) for p in biased)
    assert np.abs(before.output - after.output).max() > 1e-3


def test_a_coupled_gate_is_a_forget_gate_of_one_minus_i():
    """sigmoid(-z) = 1 - sigmoid(z): so an LSTM whose rows of f are minus those of i does the same."""
    p = random_problem("lstm", T=5, B=2, D=3, H=4, coupled=True, peephole=True)
    full = {}
    for name, values in p.parameters.items():
        i, *rest = np.split(values, 2 if "peephole" in name else 3)
        full[name] = np.concatenate([i, -i, *rest])
    expected = reference.run("lstm", full, p.x, state=p.options["state"], peephole=True)
    assert_close(run(p).output, expected.output)


@pytest.mark.parametrize("options", RNNS[::2] + LSTMS[::2] + GRUS[::2], ids=name_of)
def test_a_wide_clip_does_nothing_and_a_narrow_one_something(options):
    p = random_problem(**options, T=4, B=3, D=3, H=4)
    plain, wide, narrow = (run(p, clip=clip) for clip in (None, 100.0, 0.5))
    assert np.array_equal(wide.output, plain.output)
    assert np.abs(narrow.output - plain.output).max() > 1e-3
    plain, wide = (reference.sweep(r.trace, p.d_output).parameters for r in (plain, wide))
    assert_all_close(wide, plain, 0.0)


def test_the_slope_of_clipping_is_zero_at_its_edge():
    parameters = {"weight_ih_l0": [[1.0]], "weight_hh_l0": [[0.0]]}
    x = np.array([-2.0, -1.0, -0.5, 0.0, 1.0, 2.0])[None, :, None]
    output, _, _, trace = reference.run("rnn", parameters, x, nonlinearity="identity", clip=1.0)
    assert output.ravel().tolist() == [-1.0, -1.0, -0.5, 0.0, 1.0, 1.0]
    assert reference.sweep(trace, np.ones_like(x)).input.ravel().tolist() == [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]


def test_the_cell_state_is_carried_unclipped():
    parameters = {"weight_ih_l0": [[9.0]] * 4, "weight_hh_l0": [[0.0]] * 4}
    result = reference.run("lstm", parameters, np.ones((9, 1, 1)), clip=1.0)
    gate = 1 / (1 + np.exp(-1.0))  # sigmoid(clip)
    c = np.cumsum(gate ** np.arange(9.0)) * gate * np.tanh(1.0)
    assert c[-1] > 1.5
    assert_close(result.cells.ravel(), c)
    assert_close(result.output.ravel(), gate * np.tanh(np.minimum(c, 1.0)))


# ---- The loss --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("options", [LSTMS[0], GRUS[2]], ids=name_of)
def test_the_loss_agrees_with_autograd(torch, options, loss, reduction):
    T, B, Q, lengths = 5, 4, 3, [2, 5, 1, 4]
    counted = np.arange(T)[:, None] < lengths
    for last_only, bias in itertools.product(FLAGS, repeat=2):
        p = random_problem(**options, T=T, B=B, D=3, H=2, L=2, K=2, lengths=lengths, tokens=True)
        rng = np.random.default_rng(2)
        steps = (B,) if last_only else (T, B)
        y = rng.integers(Q, size=steps) if loss == "cross_entropy" else rng.normal(size=(*steps, Q))
        top = {"output.weight": rng.normal(size=(Q, 4))} | (
            {"output.bias": rng.normal(size=Q)} if bias else {}
        )

        leaves, x, state = torch_arguments(torch, p)
        output, final = torch_module(torch, p, leaves, x, state if p.cell == "lstm" else state[0])
        h_last = as_pair(final)[0]
        h = torch.cat([h_last[-2], h_last[-1]], dim=-1) if last_only else output[torch.tensor(counted)]
        head = {name: torch.tensor(a, requires_grad=True) for name, a in top.items()}
        o = torch.nn.functional.linear(h, head["output.weight"], head.get("output.bias"))
        judge = torch.nn.functional.cross_entropy if loss == "cross_entropy" else torch.nn.functional.mse_loss
        expected = judge(o, torch.tensor(y if last_only else y[counted]), reduction=reduction)
        expected.backward()

        if not last_only:  # what stands at padding is nobody's business
            y[~counted] = -1 if loss == "cross_entropy" else np.nan
        value, g, actual = reference.run_loss_and_grad(
            p.cell,
            p.parameters | top,
            p.x,
            y,
            loss=loss,
            reduction=reduction,
            last_only=last_only,
            **p.options,
        )
        assert_close(value, expected.item())
        assert_states_close(actual, tuple(s.detach() for s in final) if p.cell == "lstm" else final.detach())
        assert_agrees(p, g, leaves | head, x, state)


def test_the_loss_of_one_elman_layer_is_that_of_the_four_ways():
    for last_only in FLAGS:
        p = random_problem("rnn", T=5, B=3, D=4, H=2, tokens=True)
        parameters = p.parameters | {"output.weight": np.ones((3, 2)) * [[1], [2], [3]]}
        y = np.arange(15).reshape(5, 3) % 3
        y = y[0] if last_only else y
        value, gradients, last = reference.loss_and_grad(parameters, p.x, y, last_only=last_only)
        other, g, state = reference.run_loss_and_grad("rnn", parameters, p.x, y, last_only=last_only)
        assert_close(other, value)
        assert_all_close(g.parameters, gradients)
        assert_close(state, last)


# ---- Edges -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [RNNS[0], LSTMS[4], PROJECTED[1], GRUS[0]], ids=name_of)
def test_padding_is_never_looked_at(options):
    """NaN in x, in the mask and in what comes from above, and ids out of range, have no effect after T_b."""
    lengths = [2, 0, 4]
    padding = np.arange(4)[:, None] >= lengths
    for tokens in FLAGS:
        p = random_problem(**options, T=4, B=3, D=3, H=2, L=2, K=2, lengths=lengths, mask=True, tokens=tokens)
        clean = run(p)
        expected = reference.sweep(clean.trace, p.d_output, p.d_state, p.d_cells)
        p.x[padding] = -7 if tokens else np.nan
        p.options["dropout_mask"][:, padding] = p.d_output[padding] = np.nan
        if p.cell == "lstm":
            p.d_cells[:, padding] = np.nan
            assert not clean.cells[:, padding].any()
        dirty = run(p)
        g = reference.sweep(dirty.trace, p.d_output, p.d_state, p.d_cells)
        assert np.array_equal(dirty.output, clean.output)
        assert_states_close(dirty.state, clean.state, 0.0)
        assert_all_close(g.parameters, expected.parameters, 0.0)
        assert_states_close(g.state, expected.state, 0.0)
        assert np.array_equal(g.hidden, expected.hidden)
        assert not clean.output[padding].any()
        assert not g.hidden[:, padding].any()
        if not tokens:
            assert np.array_equal(g.input, expected.input)
            assert not g.input[padding].any()


WITHOUT_STEPS = [(0, 2, None), (3, 0, None), (0, 0, None), (3, 0, []), (3, 2, [0, 0])]


@pytest.mark.parametrize(("T", "B", "lengths"), WITHOUT_STEPS)
@pytest.mark.parametrize("options", [RNNS[0], LSTMS[4], PROJECTED[1], GRUS[0]], ids=name_of)
def test_without_steps_the_state_passes_through(options, T, B, lengths):
    p = random_problem(**options, T=T, B=B, D=3, H=2, L=2, K=2, lengths=lengths, mask=True)
    result = run(p)
    assert result.output.shape == p.d_output.shape
    assert not result.output.any()
    assert_states_close(result.state, p.options["state"], 0.0)
    g = reference.sweep(result.trace, p.d_output, p.d_state, p.d_cells)
    assert_states_close(g.state, p.d_state, 0.0)
    assert g.input.shape == p.x.shape
    assert list(g.parameters) == list(p.parameters)
    assert not any(gradient.any() for gradient in g.parameters.values())


def test_what_is_not_given_is_zero():
    p = random_problem("lstm", T=3, B=2, D=2, H=3, L=2, peephole=True)
    zeros = np.zeros((2, 2, 3))
    assert_close(run(p, state=None).output, run(p, state=(zeros, zeros)).output, 0.0)
    trace = run(p).trace
    nothing = reference.sweep(trace)
    assert not any(gradient.any() for gradient in nothing.parameters.values())
    for given in ({"d_output": p.d_output}, {"d_state": p.d_state}, {"d_cells": p.d_cells}):
        zero = {"d_output": p.d_output * 0, "d_state": (zeros, zeros), "d_cells": p.d_cells * 0}
        expected = reference.sweep(trace, **zero | given)
        assert_all_close(reference.sweep(trace, **given).parameters, expected.parameters, 0.0)
    absent = {name: a for name, a in p.parameters.items() if name != "bias_hh_l1"}
    zero = absent | {"bias_hh_l1": np.zeros(12)}
    results = [reference.run("lstm", q, p.x, num_layers=2, peephole=True) for q in (absent, zero)]
    gradients = [reference.sweep(result.trace, p.d_output).parameters for result in results]
    assert list(gradients[0]) == list(absent)
    assert_all_close(gradients[0], {name: gradients[1][name] for name in absent}, 0.0)


@pytest.mark.parametrize("options", [RNNS[1], LSTMS[5], PROJECTED[1], GRUS[1]], ids=name_of)
def test_the_trace_owns_what_it_needs(options):
    p = random_problem(**options, T=4, B=2, D=2, H=3, L=2, K=2, mask=True, lengths=np.array([4, 2]))
    result = run(p)
    upstream = p.d_output, p.d_state, p.d_cells
    before = reference.sweep(result.trace, *upstream)
    returned = [result.output, *as_pair(result.state)] + ([result.cells] if p.cell == "lstm" else [])
    given = [p.x, *as_pair(p.options["state"]), p.options["dropout_mask"], *p.parameters.values()]
    for array in returned + given:
        array += 1.0
    p.options["lengths"] -= 1
    after = reference.sweep(result.trace, *upstream)
    assert np.array_equal(after.hidden, before.hidden)
    assert np.array_equal(after.input, before.input)
    assert_all_close(after.parameters, before.parameters, 0.0)


P = random_parameters(np.random.default_rng(3), 3, 2, 2, 2, cell="lstm", peephole=True)
P |= {"output.weight": np.ones((5, 4))}
X, H0, C0 = np.zeros((4, 2, 3)), np.zeros((4, 2, 2)), np.zeros((4, 2, 2))
OPTIONS = {"num_layers": 2, "bidirectional": True, "peephole": True}


@pytest.mark.parametrize(
    ("error", "message", "changes"),
    [
        (ValueError, "cell: expected one of rnn, lstm, gru, got 'mlp'", {"cell": "mlp"}),
        (ValueError, "num_layers: expected at least 1, got 0", {"num_layers": 0}),
        (ValueError, "nonlinearity: an option of 'rnn', got cell 'lstm'", {"nonlinearity": "relu"}),
        (
            ValueError,
            "nonlinearity: expected one of tanh",
            {"cell": "rnn", "nonlinearity": "no", "peephole": False},
        ),
        (ValueError, "reset_after: an option of 'gru', got cell 'lstm'", {"reset_after": False}),
        (ValueError, "peephole: an option of 'lstm', got cell 'gru'", {"cell": "gru"}),
        (ValueError, "coupled: an option of 'lstm'", {"cell": "rnn", "peephole": False, "coupled": True}),
        (ValueError, "proj_size: an option of 'lstm'", {"cell": "rnn", "peephole": False, "proj_size": 1}),
        (ValueError, "proj_size: expected at least 0, got -1", {"proj_size": -1}),
        (ValueError, r"weight_hh_l0: expected shape \(8, 1\), got \(8, 2\)", {"proj_size": 1}),
        (ValueError, "clip: expected None or more than 0, got 0", {"clip": 0.0}),
        (ValueError, r"weight_ih_l0: expected shape \(6, 3\), got \(8, 3\)", {"coupled": True}),
        (ValueError, r"weight_ih_l1: expected shape \(8, 2\), got \(8, 4\)", {"bidirectional": False}),
        (
            ValueError,
            r"weight_peephole_l1_reverse: expected shape \(3, 2\)",
            {"weight_peephole_l1_reverse": 0},
        ),
        (KeyError, "weight_ih_l2", {"num_layers": 3}),
        (ValueError, r"x: expected shape \(4, 2, 3\), got \(4, 2, 4\)", {"x": np.zeros((4, 2, 4))}),
        (ValueError, r"x: expected shape \(T, B, D\)", {"x": np.zeros(4)}),
        (TypeError, "x: expected integer ids, got float64", {"x": np.zeros((4, 2))}),
        (IndexError, r"x: expected ids in \[0, 3\), got 3 at \[0, 0\]", {"x": np.full((4, 2), 3)}),
        (ValueError, r"state, c: expected shape \(4, 2, 2\), got \(2, 2\)", {"state": (H0, C0[0])}),
        (ValueError, r"state: expected the pair \(h, c\), got 4 arrays", {"state": H0}),
        (ValueError, r"lengths: expected shape \(2,\), got \(3,\)", {"lengths": [1, 2, 3]}),
        (ValueError, r"lengths: expected 0 to 4, got \[5, -1\]", {"lengths": [5, -1]}),
        (TypeError, "lengths: expected integers, got float64", {"lengths": [1.0, 2.0]}),
        (ValueError, r"dropout_mask: expected shape \(1, 4, 2, 4\)", {"dropout_mask": np.ones((4, 2, 4))}),
        (ValueError, r"y: expected shape \(4, 2\), got \(4,\)", {"y": np.zeros(4, int)}),
        (ValueError, "loss: expected one of", {"loss": "hinge"}),
        (ValueError, "no last step", {"x": X[:0], "y": np.zeros(2, int), "last_only": True}),
    ],
)
def test_bad_arguments_are_named(error, message, changes):
    parameters = P | {name: value for name, value in changes.items() if name in P}
    options = {"x": X, "y": np.zeros((4, 2), int), "cell": "lstm"} | OPTIONS
    options |= {name: value for name, value in changes.items() if name not in P}
    with pytest.raises(error, match=message):
        reference.run_loss_and_grad(parameters=parameters, **options)


def test_bad_arguments_of_the_sweep_are_named():
    trace = reference.run("lstm", P, X, **OPTIONS).trace
    for message, arguments in (
        (r"d_output: expected shape \(4, 2, 4\), got \(4, 2, 2\)", {"d_output": np.zeros((4, 2, 2))}),
        (r"d_state, h: expected shape \(4, 2, 2\), got \(2, 2\)", {"d_state": (H0[0], C0)}),
        (r"d_cells: expected shape \(4, 4, 2, 2\), got \(4, 2, 4\)", {"d_cells": np.zeros((4, 2, 4))}),
    ):
        with pytest.raises(ValueError, match=message):
            reference.sweep(trace, **arguments)
    p = random_problem("gru", T=2, B=1, D=1, H=1)
    with pytest.raises(ValueError, match="d_cells: only an LSTM has cells"):
        reference.sweep(run(p).trace, d_cells=np.zeros((1, 2, 1, 1)))
