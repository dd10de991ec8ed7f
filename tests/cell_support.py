"""Networks of every cell, and what PyTorch's autograd and pybptt.reference say of them."""

from types import SimpleNamespace

import numpy as np
from support import assert_close, torch_dense

import pybptt
from pybptt import reference

FLAGS = (False, True)
CELLS = {
    "rnn": ("RNN", {}),
    "rnn-relu": ("RNN", {"nonlinearity": "relu"}),
    "rnn-sigmoid": ("RNN", {"nonlinearity": "sigmoid"}),
    "rnn-identity": ("RNN", {"nonlinearity": "identity"}),
    "lstm": ("LSTM", {}),
    "lstm-peephole": ("LSTM", {"peephole": True}),
    "lstm-coupled": ("LSTM", {"coupled": True}),
    "lstm-peephole-coupled": ("LSTM", {"peephole": True, "coupled": True}),
    "lstm-projected": ("LSTM", {"projected": True}),
    "lstm-projected-peephole-coupled": ("LSTM", {"projected": True, "peephole": True, "coupled": True}),
    "gru": ("GRU", {}),
    "gru-before": ("GRU", {"reset_after": False}),
}
CLIPPED = {f"{name}-clip": (kind, options | {"clip": 0.4}) for name, (kind, options) in CELLS.items()}
EVERY = CELLS | CLIPPED
PYTORCHS = ("rnn", "rnn-relu", "lstm", "lstm-projected", "gru")
# One of each arithmetic.
FEW = ("rnn", "lstm", "lstm-peephole", "lstm-peephole-coupled-clip", "lstm-projected", "gru", "gru-before",
       "gru-before-clip")  # fmt: skip


def parts(state):
    """h, or h and c."""
    return state if isinstance(state, tuple) else (state,)


def directions(layer):
    """K."""
    return 2 if layer.bidirectional else 1


def state_size(layer):
    """P: entries of h_t."""
    return getattr(layer, "proj_size", 0) or layer.hidden_size


def problem(cell, T, B, D, H, L=1, K=1, *, lengths=None, tokens=False, mask=False, dtype="float64", seed=0,
            **options):  # fmt: skip
    """A layer, and what its forward and backward take, with entries of order 1; a projection halves h."""
    kind, own = EVERY[cell]
    own = own | options
    if own.pop("projected", False):
        own = {"proj_size": H // 2} | own
    rng = np.random.default_rng([seed, T, B, D, H, L, K])
    layer = getattr(pybptt, kind)(D, H, L, bidirectional=K == 2, dtype=dtype, seed=seed, **own)
    P = state_size(layer)

    def normal(*shape):
        return rng.normal(size=shape).astype(dtype)

    def state():
        return (normal(L * K, B, P), normal(L * K, B, H)) if kind == "LSTM" else normal(L * K, B, H)

    return SimpleNamespace(
        layer=layer,
        x=rng.integers(D, size=(T, B)) if tokens else normal(T, B, D),
        state=state(),
        lengths=lengths,
        mask=rng.choice([0.0, 1.25, 2.0], size=(L - 1, T, B, K * P)).astype(dtype) if mask else None,
        d_output=normal(T, B, K * P),
        d_state=state(),
        d_cells=normal(L * K, T, B, H) if kind == "LSTM" else None,
    )


def drawn_mask(layer, T, B, seed, L=2):
    """The mask that a seed draws for L layers of K directions, seen through identity layers: (1, T, B, K P).

    Each layer hands on its own direction's part of what it reads, so for L > 2 it is the masks' product.
    """
    K, H, dtype = directions(layer), state_size(layer), layer.dtype
    options = {"bidirectional": K == 2, "dropout": layer.dropout, "dtype": dtype}
    rnn = pybptt.RNN(1, H, L, nonlinearity="identity", bias=False, **options)
    rnn.flat[...] = 0
    for k, end in enumerate(("", "_reverse")[:K]):
        rnn.parameters["weight_ih_l0" + end][...] = 1
        for layer_above in range(1, L):
            rnn.parameters[f"weight_ih_l{layer_above}{end}"][...] = np.eye(K * H)[k * H : (k + 1) * H]
    return rnn.forward(np.ones((T, B, 1), dtype), training=True, seed=seed)[0][None]


def forward(p, **options):
    if p.d_cells is not None:
        options = {"cells": True} | options
    return p.layer.forward(p.x, p.state, lengths=p.lengths, dropout_mask=p.mask, **options)


def backward(p, tape, **options):
    if p.d_cells is not None:
        options = {"d_cells": p.d_cells} | options
    return p.layer.backward(tape, p.d_output, p.d_state, **{"hidden": True} | options)


def run(p):
    """Output, state, cells of an LSTM, gradients."""
    output, state, tape = forward(p)
    return SimpleNamespace(output=output, state=state, cells=tape.cells, g=backward(p, tape))


def cell_options(layer):
    """A layer's options as pybptt.reference takes them."""
    own = {
        n: getattr(layer, n)
        for n in ("nonlinearity", "reset_after", "peephole", "coupled", "proj_size")
        if hasattr(layer, n)
    }
    return own | {"num_layers": layer.num_layers, "bidirectional": layer.bidirectional, "clip": layer.clip}


def by_reference(p):
    """What `run` returns, by pybptt.reference."""
    options = {"state": p.state, "lengths": p.lengths, "dropout_mask": p.mask}
    name = type(p.layer).__name__.lower()
    r = reference.run(name, p.layer.parameters, p.x, **options, **cell_options(p.layer))
    g = reference.sweep(r.trace, p.d_output, p.d_state, p.d_cells)
    return SimpleNamespace(output=r.output, state=r.state, cells=r.cells, g=g)


def arrays_of(result):
    """Everything that `run` found, by name; what is not there is left out."""
    g = result.g
    found = {"output": result.output, "cells": result.cells, "input": g.input, "hidden": g.hidden}
    for name, state in (("state", result.state), ("d_state", g.state)):
        found |= {f"{name}[{i}]": part for i, part in enumerate(parts(state))}
    found |= {f"parameters[{name}]": array for name, array in g.parameters.items()}
    return {name: array for name, array in found.items() if array is not None}


def relative_error(actual, expected, floor=0.0):
    """The largest error, relative to the largest entry of `expected` or to `floor`."""
    error = np.abs(np.asarray(actual, dtype=np.float64) - expected).max(initial=0.0)
    return error / np.abs(expected).max(initial=floor) if error else 0.0


def assert_same(actual, expected, tolerance=1e-12, floor=0.0, without=()):
    """Every array of two results of `run`; the names `without` are not in `expected`."""
    actual, expected = arrays_of(actual), arrays_of(expected)
    assert set(actual) - set(without) == set(expected)
    assert {name: actual[name].shape for name in expected} == {n: a.shape for n, a in expected.items()}
    errors = {name: relative_error(actual[name], array, floor) for name, array in expected.items()}
    assert {name: error for name, error in errors.items() if not error <= tolerance} == {}


# ---- PyTorch --------------------------------------------------------------------------------------------


def torch_layer(torch, layer, leaves, x, state, lengths, only=None):
    """Output and final state by PyTorch's module: of all layers, or of the layer `only` as a single one."""
    names = ("num_layers", "bias", "bidirectional")
    options = {name: getattr(layer, name) for name in names} | {"dtype": torch.float64}
    for name in ("nonlinearity", "proj_size"):
        if hasattr(layer, name):
            options[name] = getattr(layer, name)
    if only is not None:
        options["num_layers"] = 1
        ends = tuple(f"_l{only}{end}" for end in ("", "_reverse"))
        leaves = {n.replace(f"_l{only}", "_l0"): leaf for n, leaf in leaves.items() if n.endswith(ends)}
    module = getattr(torch.nn, type(layer).__name__)(x.shape[2], layer.hidden_size, **options)
    given = state if isinstance(layer, pybptt.LSTM) else state[0]
    if lengths is None:
        output, last = torch.func.functional_call(module, leaves, (x, given))
        return output, parts(last)
    # PyTorch takes no sequence without steps: those are left out, and their states stay what they were.
    T, B = x.shape[:2]
    output = torch.zeros(T, B, directions(layer) * state_size(layer), dtype=torch.float64)
    some = torch.tensor(np.flatnonzero(lengths))
    if len(some) == 0:
        return output, state
    rnn = torch.nn.utils.rnn
    steps = torch.tensor(np.asarray(lengths)[some.numpy()])
    packed = rnn.pack_padded_sequence(x[:, some], steps, enforce_sorted=False)
    given = tuple(s[:, some] for s in state)
    given = given if isinstance(layer, pybptt.LSTM) else given[0]
    found, last = torch.func.functional_call(module, leaves, (packed, given))
    found, _ = rnn.pad_packed_sequence(found, total_length=T)
    return output.index_copy(1, some, found), tuple(
        s.index_copy(1, some, part) for s, part in zip(state, parts(last), strict=True)
    )


def torch_network(torch, p, leaves, xs, state):
    """Output and final state; layer by layer if there is a mask between them."""
    if p.mask is None:
        return torch_layer(torch, p.layer, leaves, xs, state, p.lengths)
    K, last = directions(p.layer), []
    for k in range(p.layer.num_layers):
        own = tuple(s[k * K : (k + 1) * K] for s in state)
        output, final = torch_layer(torch, p.layer, leaves, xs, own, p.lengths, only=k)
        last.append(final)
        if k + 1 < p.layer.num_layers:
            xs = output * torch.tensor(p.mask[k])
    return output, tuple(torch.cat(runs) for runs in zip(*last, strict=True))


def torch_leaves(torch, p, parameters):
    """Parameters, x and the initial state, to be differentiated by."""
    leaves = {name: torch.tensor(values, requires_grad=True) for name, values in parameters.items()}
    xs = torch_dense(torch, p.x, p.layer.input_size).requires_grad_()
    sizes = (state_size(p.layer), p.layer.hidden_size)[: 1 + isinstance(p.layer, pybptt.LSTM)]
    zero = (np.zeros((p.layer.num_layers * directions(p.layer), p.x.shape[1], size)) for size in sizes)
    given = zero if p.state is None else parts(p.state)
    return leaves, xs, tuple(torch.tensor(s, requires_grad=True) for s in given)


def state_like(layer, found):
    found = tuple(found)
    return found if isinstance(layer, pybptt.LSTM) else found[0]


def torch_gradients(p, leaves, xs, state, hidden=None):
    """What autograd found; as Gradients are."""

    def of(leaf):  # None: nothing depends on it
        return np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy()

    return SimpleNamespace(
        parameters={name: of(leaf) for name, leaf in leaves.items()},
        input=None if p.x.ndim == 2 else of(xs),
        state=state_like(p.layer, map(of, state)),
        hidden=hidden,
    )


def by_torch(torch, p):
    """What `run` returns, by PyTorch's own modules: all but `hidden` and `cells`, and without d_cells."""
    leaves, xs, state = torch_leaves(torch, p, p.layer.parameters)
    output, last = torch_network(torch, p, leaves, xs, state)
    ends = [(output, p.d_output)]
    ends += zip(last, [None] * 2 if p.d_state is None else parts(p.d_state), strict=False)
    loss = sum((a * torch.tensor(d)).sum() for a, d in ends if d is not None)
    loss.backward()
    return SimpleNamespace(
        output=output.detach().numpy(),
        state=state_like(p.layer, (s.detach().numpy() for s in last)),
        cells=None,
        g=torch_gradients(p, leaves, xs, state),
    )


def torch_cell(torch, layer):
    """PyTorch's function of one step of the layer, which takes x_t, the state and the parameters."""
    if getattr(layer, "proj_size", 0):  # there is none

        def projected(x, state, W_ih, W_hh, b_ih, b_hh, W_hr):
            i, f, g, o = (x @ W_ih.T + b_ih + state[0] @ W_hh.T + b_hh).chunk(4, dim=1)
            c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
            return (o.sigmoid() * c.tanh()) @ W_hr.T, c

        return projected
    name = f"rnn_{layer.nonlinearity}" if isinstance(layer, pybptt.RNN) else type(layer).__name__.lower()
    return getattr(torch, f"{name}_cell")


def torch_cells(torch, p):
    """One layer, one direction, as a loop over PyTorch's cells: `run` with hidden, cells and d_cells."""
    leaves, xs, state = torch_leaves(torch, p, p.layer.parameters)
    step = torch_cell(torch, p.layer)
    now, h, c = tuple(s[0] for s in state), [], []
    for x_t in xs:
        found = step(x_t, now if len(now) == 2 else now[0], *leaves.values())
        now = parts(found)
        h.append(now[0])
        c.append(now[-1])
        for a in now:
            a.retain_grad()
    loss = sum((a * torch.tensor(d)).sum() for a, d in zip(h, p.d_output, strict=True))
    loss = loss + sum((a * torch.tensor(d[0])).sum() for a, d in zip(now, parts(p.d_state), strict=True))
    if p.d_cells is not None:
        loss = loss + sum((a * torch.tensor(d)).sum() for a, d in zip(c, p.d_cells[0], strict=True))
    loss.backward()
    hidden = np.stack([a.grad.numpy() for a in h])[None]
    return SimpleNamespace(
        output=torch.stack(h).detach().numpy(),
        state=state_like(p.layer, (s.detach().numpy()[None] for s in now)),
        cells=None if p.d_cells is None else torch.stack(c).detach().numpy()[None],
        g=torch_gradients(p, leaves, xs, state, hidden),
    )


# ---- Finite differences ---------------------------------------------------------------------------------


def scalar(p, output, state, cells):
    """The loss whose derivatives by output, state and cells are p's upstream gradients."""
    pairs = [(output, p.d_output), *zip(parts(state), parts(p.d_state), strict=True)]
    return sum((a * d).sum() for a, d in [*pairs, *([] if cells is None else [(cells, p.d_cells)])])


def differences(p):
    """Central differences of `scalar`, by every parameter, x and the initial state."""
    point = dict(p.layer.parameters) | {f"state[{i}]": part for i, part in enumerate(parts(p.state))}
    if p.x.ndim == 3:
        point["x"] = p.x
    before = p.layer.flat.copy()

    def loss(values):
        for name, parameter in p.layer.parameters.items():
            parameter[...] = values[name]
        moved = SimpleNamespace(**vars(p) | {"x": values.get("x", p.x)})
        moved.state = state_like(p.layer, (values[name] for name in values if name.startswith("state")))
        output, state, tape = forward(moved)
        return scalar(p, output, state, tape.cells)

    found = reference.finite_differences(loss, {name: np.array(a) for name, a in point.items()})
    p.layer.flat = before
    return found


def assert_differences(p, g, tolerance=1e-7):
    found = differences(p)
    for i, part in enumerate(parts(g.state)):
        assert_close(part, found.pop(f"state[{i}]"), tolerance)
    if "x" in found:
        assert_close(g.input, found.pop("x"), tolerance)
    assert list(g.parameters) == list(found)
    for name, expected in found.items():
        assert_close(g.parameters[name], expected, tolerance)
