"""Truncated gradients by definition: window by window with PyTorch's autograd, and by pybptt.reference."""

from types import SimpleNamespace

import numpy as np
from cell_support import (
    EVERY,
    cell_options,
    forward,
    parts,
    problem,
    state_like,
    state_size,
    torch_cell,
    torch_gradients,
    torch_leaves,
)

import pybptt
from pybptt import reference

# (k1, k2) for T = 13: the five published styles, what lies between them, and k2 < k1.
T = 13
STYLES = [
    (13, 13), (1, 13), (1, 4), (4, 1), (3, 7), (4, 4),  # full twice, textbook, none back, between, blocks
    (1, 1), (1, 12), (5, 2), (6, 5), (2, 40), (20, 30), (20, 3), (7, 6), (12, 13),
]  # fmt: skip
RAGGED = [4, 0, 13, 13, 1, 12, 6, 2, 9]


def model_problem(cell, T, B, D, H, Q, L=1, K=1, *, loss="cross_entropy", reduction="mean", last_only=False,
                  seed=0, **options):  # fmt: skip
    """A model, and what its loss_and_grad takes."""
    p = problem(cell, T, B, D, H, L, K, seed=seed, **options)
    rng = np.random.default_rng([seed, Q])
    shape = (B,) if last_only else (T, B)
    p.y = (
        rng.integers(Q, size=shape)
        if loss == "cross_entropy"
        else rng.normal(size=(*shape, Q)).astype(p.layer.dtype)
    )
    p.model = pybptt.SequenceModel(
        p.layer, Q, loss=loss, reduction=reduction, last_only=last_only, seed=seed + 1
    )
    return p


# ---- pybptt ---------------------------------------------------------------------------------------------


def backward(p, truncation=None, clip_hidden=None, **options):
    """Forward and truncated backward of a layer."""
    output, state, tape = forward(p)
    given = {} if p.d_cells is None else {"d_cells": p.d_cells}
    g = p.layer.backward(
        tape, p.d_output, p.d_state, truncation=truncation, clip_hidden=clip_hidden, hidden=True,
        **given | options,
    )  # fmt: skip
    return SimpleNamespace(output=output, state=state, cells=tape.cells, g=g)


def loss_and_grad(p, truncation=None, clip_hidden=None):
    """Of a model."""
    loss, g, state = p.model.loss_and_grad(
        p.x, p.y, p.state, lengths=p.lengths, dropout_mask=p.mask, truncation=truncation,
        clip_hidden=clip_hidden, hidden=True, input=True,
    )  # fmt: skip
    return SimpleNamespace(output=loss, state=state, cells=None, g=g, unreached=g.unreached)


# ---- The reference --------------------------------------------------------------------------------------


def _options(p):
    name = type(p.layer).__name__.lower()
    return name, {"state": p.state, "lengths": p.lengths, "dropout_mask": p.mask} | cell_options(p.layer)


def _exact(p):
    """The parameters of the layer, or of the model, in float64."""
    flat = p.model if hasattr(p, "model") else p.layer
    return {name: value.astype(np.float64) for name, value in flat.parameters.items()}


def backward_by_reference(p, k1=None, k2=None, *, xi=None, clip_hidden=None):
    """What `backward` returns: for TBPTT(k1, k2), for factors xi, or neither."""
    name, options = _options(p)
    r = reference.run(name, _exact(p), p.x, **options)
    upstream = (r.trace, p.d_output, p.d_state, p.d_cells)
    if k1 is None:
        g = reference.sweep(*upstream, xi=xi, clip_hidden=clip_hidden)
    else:
        g = reference.truncated_sweep(*upstream, k1=k1, k2=k2, clip_hidden=clip_hidden)
    return SimpleNamespace(output=r.output, state=r.state, cells=r.cells, g=g)


def loss_by_reference(p, k1=None, k2=None, *, xi=None, clip_hidden=None):
    """What `loss_and_grad` returns."""
    name, options = _options(p)
    options |= {"loss": p.model.loss_name, "reduction": p.model.reduction, "last_only": p.model.last_only}
    options |= {"clip_hidden": clip_hidden}
    if k1 is None:
        found = (*reference.run_loss_and_grad(name, _exact(p), p.x, p.y, xi=xi, **options), 0)
    else:
        found = reference.tbptt_loss_and_grad(name, _exact(p), p.x, p.y, k1=k1, k2=k2, **options)
    loss, g, state, unreached = found
    return SimpleNamespace(output=np.asarray(loss), state=state, cells=None, g=g, unreached=unreached)


# ---- PyTorch --------------------------------------------------------------------------------------------


def steps_by_torch(torch, p, leaves, xs, state, b, first, last, xi=None, clip_hidden=None):
    """Steps first .. last of sequence b as a loop over PyTorch's cell functions.

    Returns h_t and c_t of all layers and steps, [t - first][layer] (one or two tensors (1, H)). The
    derivative by the state before step t is multiplied by xi[t - 1, b], and a hook clips every dL/dh_t.
    """
    L, cell = p.layer.num_layers, torch_cell(torch, p.layer)
    now = [tuple(part[k : k + 1] for part in state) for k in range(L)]
    found = []
    for t in range(first, last + 1):
        x = xs[t - 1, b : b + 1]
        for k in range(L):
            before = now[k]
            if xi is not None:
                before = tuple(xi[t - 1, b] * s + (1 - xi[t - 1, b]) * s.detach() for s in before)
            theta = [leaf for name, leaf in leaves.items() if name.endswith(f"_l{k}")]
            now[k] = parts(cell(x, before if len(before) == 2 else before[0], *theta))
            h = now[k][0]
            if h.requires_grad:
                if clip_hidden is not None:
                    h.register_hook(lambda d: clipped(torch, d, *clip_hidden))
                h.retain_grad()
            x = h if p.mask is None or k == L - 1 else h * torch.tensor(p.mask[k, t - 1, b])
        found.append(list(now))
    return found


def clipped(torch, d, kind, limit):
    if kind == "value":
        return torch.clamp(d, -limit, limit)
    norm = torch.linalg.vector_norm(d, dim=1, keepdim=True)
    return torch.where(norm > limit, d / norm * limit, d)


def by_torch(torch, p, k1, k2, *, xi=None, clip_hidden=None):
    """TBPTT(k1, k2) by its definition: a forward pass from the detached state for each window.

    Of a layer, or of a model if `p` has one. The windows are found here, not asked of pybptt.
    """
    model = getattr(p, "model", None)
    leaves, xs, state = torch_leaves(torch, p, _exact(p))
    steps, batch = p.x.shape[:2]
    lengths = [steps] * batch if p.lengths is None else [int(n) for n in p.lengths]
    hidden = np.zeros((p.layer.num_layers, steps, batch, state_size(p.layer)))
    total, reached, scale = 0.0, 0, 1.0
    if model is not None and model.reduction == "mean":
        scale = 1 / max(1, batch if model.last_only else sum(lengths))
        scale /= p.y.shape[-1] if model.loss_name == "mse" else 1

    def loss_of(h, y):
        o = torch.nn.functional.linear(h, leaves["output.weight"], leaves["output.bias"])
        judge = getattr(torch.nn.functional, "mse_loss" if model.loss_name == "mse" else "cross_entropy")
        return scale * judge(o, torch.tensor(np.asarray(y))[None], reduction="sum")

    for b in range(batch):
        T_b, start = lengths[b], tuple(s[:, b] for s in state)
        with torch.no_grad():
            saved = steps_by_torch(torch, p, leaves, xs, start, b, 1, T_b)
        previous = 0
        for t in range(0 if T_b == 0 else 1, T_b + 1):
            if t % k1 != 0 and t != T_b:
                continue
            first = max(1, t - k2 + 1)
            begin = start
            if first > 1:
                begin = tuple(torch.cat([s[i] for s in saved[first - 2]]) for i in range(len(start)))
            states = steps_by_torch(torch, p, leaves, xs, begin, b, first, t, xi, clip_hidden)
            last = (
                states[-1] if states else [tuple(s[k : k + 1] for s in begin) for k in range(len(begin[0]))]
            )
            terms = []
            for s in range(max(previous + 1, first), t + 1):
                h = states[s - first][-1][0]
                if model is None:
                    terms.append((h[0] * torch.tensor(p.d_output[s - 1, b])).sum())
                    for k in range(p.layer.num_layers if p.d_cells is not None else 0):
                        terms.append(
                            (states[s - first][k][1][0] * torch.tensor(p.d_cells[k, s - 1, b])).sum()
                        )
                elif not model.last_only:
                    terms.append(loss_of(h, p.y[s - 1, b]))
                    reached += 1
            if t == T_b and model is None:
                for i, d in enumerate(parts(p.d_state)):
                    terms += [(last[k][i][0] * torch.tensor(d[k, b])).sum() for k in range(len(last))]
            elif t == T_b and model.last_only:
                terms.append(loss_of(last[-1][0], p.y[b]))
                reached += 1
            previous = t
            if terms:
                loss = sum(terms)
                loss.backward()
                total += loss.item()
            for s, of_layers in enumerate(states, first):
                for k, found in enumerate(of_layers):
                    if found[0].grad is not None:
                        hidden[k, s - 1, b] += found[0].grad[0].numpy()
    g = torch_gradients(p, leaves, xs, state, hidden)
    targets = batch if model is not None and model.last_only else sum(lengths)
    return SimpleNamespace(
        loss=total, g=g, unreached=targets - reached if model is not None else None,
        state=state_like(p.layer, map(np.asarray, parts(p.state))),
    )  # fmt: skip


def assert_gradients(found, expected, tolerance=1e-12, floor=0.0):
    """By parameters, input, initial state and h_t, each relative to its largest entry."""
    pairs = {"input": (found.input, expected.input), "hidden": (found.hidden, expected.hidden)}
    pairs |= {
        f"state[{i}]": pair
        for i, pair in enumerate(zip(parts(found.state), parts(expected.state), strict=True))
    }
    assert list(found.parameters) == list(expected.parameters)
    pairs |= {name: (found.parameters[name], expected.parameters[name]) for name in expected.parameters}
    assert (found.input is None) == (expected.input is None)
    errors = {}
    for name, (a, b) in pairs.items():
        if b is None:
            continue
        assert a.shape == b.shape, name
        error, largest = np.abs(a - b).max(initial=0.0), np.abs(b).max(initial=floor)
        if not error <= tolerance * largest:
            errors[name] = (error, largest)
    assert errors == {}


def assert_same(found, expected, tolerance=1e-12, floor=0.0):
    """Of two results: output or loss, final state, gradients, and the targets that no window reached."""
    assert np.abs(found.output - expected.output).max(initial=0.0) <= tolerance * np.abs(expected.output).max(
        initial=floor
    )
    for a, b in zip(parts(found.state), parts(expected.state), strict=True):
        assert np.abs(a - b).max(initial=0.0) <= tolerance * np.abs(b).max(initial=floor)
    assert_gradients(found.g, expected.g, tolerance, floor)
    assert getattr(found, "unreached", 0) == getattr(expected, "unreached", 0)


CELLS = tuple(EVERY)
