"""Gradient flow, against closed forms, PyTorch's Jacobians and finite differences."""

import sys

import numpy as np
import pytest
from support import assert_close

import pybptt
from pybptt import _jacobians
from pybptt.flow import _verdict

CELLS = {
    "rnn": (pybptt.RNN, {}),
    "lstm": (pybptt.LSTM, {}),
    "projected": (pybptt.LSTM, {"proj_size": 3}),
    "gru": (pybptt.GRU, {}),
    "relu": (pybptt.RNN, {"nonlinearity": "relu", "clip": 1.5}),
    "sigmoid": (pybptt.RNN, {"nonlinearity": "sigmoid", "bias": False}),
    "peephole": (pybptt.LSTM, {"peephole": True, "clip": 0.6}),
    "coupled": (pybptt.LSTM, {"coupled": True, "peephole": True, "bias": False}),
    "coupled, no peephole": (pybptt.LSTM, {"coupled": True}),
    "reset before": (pybptt.GRU, {"reset_after": False, "clip": 0.6}),
}
METHODS = ("exact", "iterative")


def problem(cell="rnn", T=9, B=3, D=2, H=5, *, last_only=False, seed=0, **options):
    """A model of squared errors, x, y and state."""
    rng = np.random.default_rng([seed, T, B, D, H])
    make, own = CELLS[cell]
    layer = make(D, H, dtype="float64", seed=seed, **own, **options)
    layer.flat *= 2  # so that gates move
    model = pybptt.SequenceModel(layer, 2, loss="mse", last_only=last_only, seed=seed + 1)
    units = layer.num_layers * (2 if layer.bidirectional else 1)
    h, c = rng.normal(size=(units, B, own.get("proj_size", H))), rng.normal(size=(units, B, H))
    state = (h, c) if isinstance(layer, pybptt.LSTM) else h
    x, y = rng.normal(size=(T, B, D)), rng.normal(size=(B, 2) if last_only else (T, B, 2))
    if layer.batch_first:
        x, y = x.swapaxes(0, 1), y if last_only else y.swapaxes(0, 1)
    return model, x, y, state


def orthogonal(H, scale, T=60, layers=1):
    """A linear model with W_hh = scale * an orthogonal matrix, x and y."""
    rnn = pybptt.RNN(2, H, layers, nonlinearity="identity", dtype="float64", seed=0)
    for name, weight in rnn.parameters.items():
        if name.startswith("weight_hh"):
            weight[...] = scale * np.linalg.qr(np.random.default_rng(1).normal(size=(H, H)))[0]
    model = pybptt.SequenceModel(rnn, 1, loss="mse", last_only=True, seed=1)
    return model, np.ones((T, 1, 2)), np.zeros((1, 1))


def check(flow, run, jacobians, tolerance):
    """The flow's Jacobians, looked at in every step, are these (T, H, H)."""
    tolerance = tolerance if flow.exact else max(tolerance, 1e-6)
    assert np.array_equal(flow.times, np.arange(1, len(jacobians) + 1))
    largest = np.linalg.svd(jacobians, compute_uv=False)[:, 0]
    np.testing.assert_allclose(flow.singular_values[run], largest, rtol=tolerance)
    norms = np.linalg.norm(jacobians, axis=(1, 2))
    # An estimate of the norm is within five of its standard deviations.
    np.testing.assert_allclose(flow.jacobian_norms[run], norms, rtol=tolerance if flow.exact else 0.45)


@pytest.mark.parametrize("method", METHODS)
def test_a_linear_network_has_powers_of_its_matrix(method):
    T, B, H = 25, 3, 6
    rnn = pybptt.RNN(2, H, nonlinearity="identity", dtype="float64", seed=0)
    model = pybptt.SequenceModel(rnn, 2, loss="mse", reduction="sum", last_only=True, seed=1)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(T, B, 2)), rng.normal(size=(B, 2))
    flow = pybptt.gradient_flow(model, x, y, points=T, method=method)
    W = rnn.parameters["weight_hh_l0"]
    powers = [np.linalg.matrix_power(W, T - t) for t in range(1, T + 1)]  # W_hh^(T-t) = dh_T/dh_t
    check(flow, 0, np.stack(powers), 1e-10)
    assert flow.exact == (method == "exact")

    d_h = 2 * (model(x)[0] - y) @ model.parameters["output.weight"]  # dL/dh_T (B, H)
    # dL/dh_t = (W_hh^T)^(T-t) dL/dh_T, for rows: dL/dh_T W_hh^(T-t)
    expected = [np.linalg.norm(d_h @ power) for power in powers]
    np.testing.assert_allclose(flow.hidden_norms[0], expected, rtol=1e-10)
    assert flow.loss == pytest.approx(((model(x)[0] - y) ** 2).sum())
    rate = np.polyfit(T - flow.times, np.log(flow.singular_values[0]), 1)[0]
    assert flow.rates == pytest.approx(np.exp(rate))


def torch_jacobians(torch, layer, x, state):
    """dh_T/dh_t (T, P, P) of every run in the order of its own steps, by PyTorch's autograd; x (T, 1, D)."""
    h_0, c_0 = (torch.tensor(s) for s in (state if isinstance(state, tuple) else (state, state)))
    lstm = isinstance(layer, pybptt.LSTM)
    options = {"proj_size": layer.proj_size} if lstm else {}
    xs, i = torch.tensor(x), 0
    for k in range(layer.num_layers):
        outputs = []
        for end in ("", "_reverse")[: 2 if layer.bidirectional else 1]:
            kind = getattr(torch.nn, type(layer).__name__)
            module = kind(xs.shape[2], layer.hidden_size, dtype=torch.float64, **options)
            values = {
                name: torch.tensor(layer.parameters[f"{name[:-3]}_l{k}{end}"]) for name in module.state_dict()
            }
            module.load_state_dict(values)
            inputs = xs.flip(0) if end else xs
            state_t = (h_0[[i]], c_0[[i]]) if lstm else h_0[[i]]
            found, steps = [], []
            for t in range(1, len(x) + 1):
                out, state_t = module(inputs[t - 1 : t], state_t)
                steps.append(out)
                h_t = state_t[0] if lstm else state_t

                def last(h, t=t, state_t=state_t, module=module, inputs=inputs):
                    if t == len(inputs):
                        return h.clone()
                    return module(inputs[t:], (h, state_t[1]) if lstm else h)[0][-1]

                jacobian = torch.autograd.functional.jacobian(last, h_t.detach())
                found.append(jacobian.detach().numpy().reshape(h_t.shape[-1], -1))
            output = torch.cat(steps).detach()
            outputs.append(output.flip(0) if end else output)
            i += 1
            yield np.stack(found)
        xs = torch.cat(outputs, dim=2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cell", ["rnn", "lstm", "projected", "gru"])
def test_jacobians_are_those_of_autograd(cell, method, torch):
    T, b = 7, 1  # of a batch of three sequences, of which the second has 7 of 9 steps
    model, x, y, state = problem(cell, num_layers=2, bidirectional=True)
    flow = pybptt.gradient_flow(
        model, x, y, state, lengths=[9, T, 3], sequence=b, points=T, method=method, seed=3
    )
    assert flow.runs == ("l0", "l0_reverse", "l1", "l1_reverse")
    own = tuple(s[:, [b]] for s in state) if isinstance(state, tuple) else state[:, [b]]
    for run, jacobians in enumerate(torch_jacobians(torch, model.layer, x[:T, [b]], own)):
        check(flow, run, jacobians[::-1] if run % 2 else jacobians, 1e-10)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cell", CELLS)
def test_jacobians_are_those_of_finite_differences(cell, method):
    T, H, step = 6, 4, 1e-6
    model, x, y, state = problem(cell, T, 1, 2, H)
    lstm = isinstance(model.layer, pybptt.LSTM)
    eye = np.eye(state[0].shape[-1] if lstm else H)
    found = [eye]
    for t in range(T - 1, 0, -1):
        _, state_t = model.layer(x[:t], state)
        h, c = state_t if lstm else (state_t, None)

        def last(h, c=c, t=t):
            return model.layer(x[t:], (h, c) if lstm else h)[0][-1, 0]

        moved = [(last(h + step * e) - last(h - step * e)) / (2 * step) for e in eye]
        found.insert(0, np.stack(moved, axis=1))
    flow = pybptt.gradient_flow(model, x, y, state, points=T, method=method)
    check(flow, 0, np.stack(found), 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_fewer_points_are_some_of_all(method):
    model, x, y, state = problem("gru", T=8, bidirectional=True)
    every, some = (pybptt.gradient_flow(model, x, y, state, points=n, method=method) for n in (8, 3))
    assert some.times.tolist() == [1, 4, 8]  # not the same seen from the end
    np.testing.assert_allclose(some.singular_values, every.singular_values[:, [0, 3, 7]], rtol=1e-6)
    np.testing.assert_allclose(some.jacobian_norms, every.jacobian_norms[:, [0, 3, 7]], rtol=0.9)
    if some.exact:
        np.testing.assert_allclose(some.jacobian_norms, every.jacobian_norms[:, [0, 3, 7]], rtol=1e-12)


def test_norms_of_the_gradient_are_those_of_the_sweep():
    lengths = [9, 4, 6]
    model, x, y, state = problem("gru", num_layers=2, bidirectional=True)
    flow = pybptt.gradient_flow(model, x, y, state, lengths=lengths)
    hidden = model.loss_and_grad(x, y, state, lengths=lengths, hidden=True)[1].hidden
    expected = [[np.sqrt((step**2).sum()) for step in run] for run in hidden]
    assert_close(flow.hidden_norms, expected, 1e-14)


def test_a_subclass_may_be_made_in_another_way():
    class Small(pybptt.LSTM):
        def __init__(self, D):
            super().__init__(D, 5, dtype="float64", seed=0)

    _, x, y, state = problem("lstm")
    flows = [
        pybptt.gradient_flow(pybptt.SequenceModel(layer, 2, loss="mse", seed=1), x, y, state)
        for layer in (Small(2), pybptt.LSTM(2, 5, dtype="float64", seed=0))
    ]
    assert np.array_equal(*(flow.singular_values for flow in flows))


def test_dropout_is_off():
    model, x, y, state = problem(num_layers=2, dropout=0.5)
    flow = pybptt.gradient_flow(model, x, y, state)
    assert flow.loss == model.loss(x, y, state)[0]
    hidden = model.loss_and_grad(x, y, state, training=False, hidden=True)[1].hidden
    assert_close(flow.hidden_norms, np.linalg.norm(hidden, axis=(2, 3)), 1e-14)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "projected", "gru"])
def test_both_methods_agree(cell):
    model, x, y, state = problem(cell, T=30, H=40)
    exact, iterative = (
        pybptt.gradient_flow(model, x, y, state, points=8, method=method) for method in METHODS
    )
    assert exact.times.tolist() == iterative.times.tolist() == [1, 5, 9, 13, 18, 22, 26, 30]
    np.testing.assert_allclose(iterative.singular_values, exact.singular_values, rtol=1e-6)
    np.testing.assert_allclose(iterative.jacobian_norms, exact.jacobian_norms, rtol=0.45)
    assert (iterative.jacobian_norms >= iterative.singular_values).all()
    assert not np.array_equal(iterative.jacobian_norms, exact.jacobian_norms)
    assert iterative.verdicts == exact.verdicts
    assert exact.rates == pytest.approx(iterative.rates, rel=1e-6)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "projected"])
def test_time_in_segments_gives_the_same(cell):
    model, x, _, state = problem(cell, T=11, B=1)
    h, c = state if cell == "lstm" else (state, None)
    (run,) = _jacobians.runs(model.layer, x, h, c)
    whole = list(_jacobians.jacobians(run))
    assert [t for t, _ in whole] == list(range(11, 0, -1))
    a_step = 8 * 5 * (8 * 5 + 2)
    for segment in (0, 3 * a_step, 11 * a_step):
        for (t, jacobian), (t_whole, expected) in zip(_jacobians.jacobians(run, segment), whole, strict=True):
            assert t == t_whole
            assert_close(jacobian, expected, 1e-13)


def test_largest_singular_values_of_any_matrices():
    rng = np.random.default_rng(0)
    M = rng.normal(size=(5, 30, 30))
    M[1] = np.outer(M[1, 0], M[1, 1]) * 1e-200  # of rank 1, and such that squares would vanish
    M[2] = 0
    M[3] = np.eye(30)
    M[4] *= 1e200
    found = _jacobians.largest_singular_values(
        lambda v, rows: np.einsum("nij,nj->ni", M[rows], v),
        lambda u, rows: np.einsum("nij,ni->nj", M[rows], u),
        rng.normal(size=(5, 30)),
    )
    np.testing.assert_allclose(found, np.linalg.svd(M, compute_uv=False)[:, 0], rtol=1e-6)


def test_auto_is_exact_up_to_128_units():
    for H, exact in ((128, True), (129, False)):
        model, x, y, state = problem(T=2, B=1, H=H)
        assert pybptt.gradient_flow(model, x, y, state).exact == exact


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("scale", "verdict", "words"),
    [
        (0.5, "vanishing", "0.5 a step back, halves every 1 steps"),
        (0.95, "healthy", "0.95 a step back, halves every 13.5 steps"),
        (1.0, "healthy", "1 a step back"),
        (1.05, "healthy", "1.05 a step back, doubles every 14.2 steps"),
        (2.0, "exploding", "2 a step back, doubles every 1 steps"),
    ],
)
def test_verdicts(scale, verdict, words, method):
    model, x, y = orthogonal(6, scale)
    flow = pybptt.gradient_flow(model, x, y, method=method)
    assert flow.rates == pytest.approx([scale], rel=1e-9)
    assert (flow.verdict, flow.verdicts) == (verdict, (verdict,))
    assert str(flow).splitlines()[0] == f"l0: {verdict}, {words}"


def test_the_verdict_counts_the_whole_sequence():
    for T, verdict in ((60, "healthy"), (200, "vanishing")):  # 0.95 ** 59 = 0.048, 0.95 ** 199 = 4e-5
        assert pybptt.gradient_flow(*orthogonal(6, 0.95, T)).verdict == verdict


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("scale", "verdict"), [(1e-20, "vanishing"), (1e20, "exploding")])
def test_beyond_the_range_of_numbers(scale, verdict, method):
    flow = pybptt.gradient_flow(*orthogonal(4, scale, T=30), method=method, points=30)
    assert flow.verdict == verdict
    assert flow.singular_values[0, 0] == flow.jacobian_norms[0, 0] == (0 if scale < 1 else np.inf)
    assert flow.rates == pytest.approx([scale], rel=1e-6)
    str(flow)


@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_forgets_at_once(method):
    flow = pybptt.gradient_flow(*orthogonal(4, 0.0, T=5), method=method)
    assert (flow.verdict, flow.rates[0]) == ("vanishing", 0.0)
    assert flow.singular_values[0].tolist() == [0, 0, 0, 0, 1]
    assert "0 a step back" in str(flow)


def test_one_step_that_lets_nothing_pass_is_enough_to_vanish():
    rnn = pybptt.RNN(1, 1, nonlinearity="relu", bias=False, dtype="float64", seed=0)
    model = pybptt.SequenceModel(rnn, 1, loss="mse", last_only=True, seed=1)
    rnn.flat = np.ones(2)
    x = np.ones((10, 1, 1))
    assert pybptt.gradient_flow(model, x, np.zeros((1, 1))).verdict == "healthy"
    x[4] = -100  # h_5 = 0, whatever h_4 is
    flow = pybptt.gradient_flow(model, x, np.zeros((1, 1)))
    assert flow.singular_values[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert (flow.verdict, flow.rates[0]) == ("vanishing", pytest.approx(1))


def test_one_overflow_is_enough_to_explode():
    assert _verdict(np.array([2, 1, 0]), np.array([np.inf, 1.0, 1.0]))[1] == "exploding"


def test_each_layer_has_its_verdict():
    model, x, y = orthogonal(4, 1.0, layers=3)
    weights = [model.parameters[f"weight_hh_l{k}"] for k in range(3)]
    weights[1] *= 0.5
    flow = pybptt.gradient_flow(model, x, y)
    assert (flow.verdict, flow.verdicts) == ("vanishing", ("healthy", "vanishing", "healthy"))
    weights[2] *= 2
    flow = pybptt.gradient_flow(model, x, y)
    assert (flow.verdict, flow.verdicts) == ("exploding", ("healthy", "vanishing", "exploding"))
    assert [flow.rates[k] for k in range(3)] == pytest.approx([1, 0.5, 2])


@pytest.mark.parametrize(
    ("cell", "gates"),
    [("rnn", "h"), ("lstm", "ifgo"), ("coupled", "igo"), ("projected", "ifgo"), ("gru", "rzn")],
)
def test_the_recurrent_matrix(cell, gates):
    model, x, y, state = problem(cell, num_layers=2, bidirectional=True)
    flow = pybptt.gradient_flow(model, x, y, state)
    assert flow.gates == tuple(gates)
    for i, run in enumerate(flow.runs):
        for g, W in enumerate(np.split(model.parameters[f"weight_hh_{run}"], len(gates))):
            if cell == "projected":
                W = model.parameters[f"weight_hr_{run}"] @ W  # noqa: PLW2901
            assert flow.spectral_radii[i, g] == pytest.approx(np.abs(np.linalg.eigvals(W)).max())
            assert_close(flow.recurrent_singular_values[i, g], np.linalg.svd(W, compute_uv=False), 1e-12)


def test_tokens_are_one_hot_inputs():
    rng = np.random.default_rng(0)
    model = pybptt.SequenceModel(pybptt.LSTM(4, 5, 2, dtype="float64", seed=0), 3, seed=1)
    tokens, y = rng.integers(4, size=(9, 3)), rng.integers(3, size=(9, 3))
    for method in METHODS:
        a = pybptt.gradient_flow(model, tokens, y, method=method, sequence=2)
        b = pybptt.gradient_flow(model, np.eye(4)[tokens], y, method=method, sequence=2)
        assert_close(a.singular_values, b.singular_values, 1e-11)
        assert_close(a.hidden_norms, b.hidden_norms, 1e-12)


def test_batch_first():
    same = [problem("gru", batch_first=b, last_only=True, num_layers=2) for b in (False, True)]
    a, b = (pybptt.gradient_flow(*p, sequence=2) for p in same)
    assert_close(a.singular_values, b.singular_values, 1e-14)
    assert_close(a.hidden_norms, b.hidden_norms, 1e-14)


def test_jacobians_of_a_float32_model_are_made_in_float64():
    model, x, y = orthogonal(4, 0.1)
    rnn = pybptt.RNN(2, 4, nonlinearity="identity", seed=0)
    single = pybptt.SequenceModel(rnn, 1, loss="mse", last_only=True)
    single.flat = model.flat.astype(np.float32)
    flow = pybptt.gradient_flow(single, x.astype(np.float32), y.astype(np.float32), points=60)
    assert flow.singular_values[0, 0] == pytest.approx(1e-59, rel=1e-4)  # no float32
    assert flow.singular_values.dtype == flow.hidden_norms.dtype == np.float64


def test_nothing_of_the_model_is_changed_and_results_repeat():
    model, x, y, state = problem("lstm")
    before = model.flat.copy()
    a, b = (pybptt.gradient_flow(model, x, y, state, method="iterative", seed=4) for _ in range(2))
    assert np.array_equal(model.flat, before)
    assert np.array_equal(a.singular_values, b.singular_values)
    assert np.array_equal(a.jacobian_norms, b.jacobian_norms)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"method": "svd"}, ValueError, "method: expected one of auto, exact, iterative, got 'svd'"),
        ({"points": 1}, ValueError, "points: expected at least 2, got 1"),
        ({"points": 2.0}, TypeError, "points: expected an integer, got float"),
        ({"sequence": 3}, ValueError, "sequence: expected less than B = 3, got 3"),
        ({"sequence": -1}, ValueError, "sequence: expected at least 0, got -1"),
        ({"sequence": 1, "lengths": [9, 1, 9]}, ValueError, "at least 2 steps, got 1, of 1"),
        ({"lengths": [9, 10, 9]}, ValueError, "lengths: expected values in"),
        ({"seed": -1}, ValueError, "seed: expected at least 0"),
        ({"x": np.zeros((9, 3, 7))}, ValueError, "x: expected shape"),
        ({"y": np.zeros((9, 3, 7))}, ValueError, "y: expected shape"),
        ({"state": np.zeros((1, 3, 7))}, ValueError, "state: expected shape"),
        ({"model": pybptt.RNN(2, 5)}, TypeError, "model: expected a SequenceModel, got RNN"),
    ],
)
def test_bad_arguments(options, error, words):
    model, x, y, state = problem()
    given = {"model": model, "x": x, "y": y, "state": state} | options
    with pytest.raises(error, match=words):
        pybptt.gradient_flow(**given)


def test_the_table():
    model, x, y, state = problem("gru", T=40, bidirectional=True)
    flow = pybptt.gradient_flow(model, x, y, state)
    assert repr(flow) == str(flow)
    first, second = str(flow).split("\n\n")
    assert first.startswith(f"l0: {flow.verdicts[0]}, ")
    assert second.startswith("l0_reverse: ")
    assert "dh_T/dh_t" in first
    assert "dh_1/dh_t" in second
    rows = [line.split() for line in second.splitlines()]
    assert [row[0] for row in rows[2:13]] == ["1", "5", "9", "13", "17", "21", "24", "28", "32", "36", "40"]
    found = [float(entry) for entry in rows[3][1:]]
    expected = [flow.hidden_norms[1, 4], flow.jacobian_norms[1, 4], flow.singular_values[1, 4]]
    assert found == pytest.approx(expected, rel=1e-3)
    found = [float(entry) for entry in rows[-2][1:]]
    values = flow.recurrent_singular_values[1, 1]
    assert rows[-2][0] == "z"
    assert found == pytest.approx([flow.spectral_radii[1, 1], values[0], values[-1]], abs=1e-4)


def test_the_plot(tmp_path):
    matplotlib = pytest.importorskip("matplotlib", reason="it draws")
    matplotlib.use("Agg")
    model, x, y, state = problem("lstm", num_layers=2)
    flow = pybptt.gradient_flow(model, x, y, state, points=4)
    path = tmp_path / "flow.png"
    ax = flow.plot(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    solid, dashed, *_ = ax.get_lines()
    assert np.array_equal(solid.get_ydata(), flow.hidden_norms[0])
    assert np.array_equal(dashed.get_xdata(), flow.times)
    assert np.array_equal(dashed.get_ydata(), flow.singular_values[0])
    assert len(ax.get_lines()) == 4
    assert flow.plot(ax=ax, label="again") is ax
    assert ax.get_legend().get_texts()[-2].get_text() == "again l1 |dL/dh_t|"
    assert len(ax.get_lines()) == 8
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    flow.plot(path)
    assert plt.get_fignums() == before
    shown = flow.plot()
    assert plt.get_fignums() == [*before, shown.figure.number]
    plt.close(shown.figure)
    with pytest.raises(ValueError, match="nonsense"):
        flow.plot(tmp_path / "flow.nonsense")


def test_what_vanished_is_a_gap_in_the_plot(tmp_path):
    pytest.importorskip("matplotlib", reason="it draws")
    ax = pybptt.gradient_flow(*orthogonal(4, 0.0, T=5)).plot(tmp_path / "flow.png")
    assert np.isnan(ax.get_lines()[1].get_ydata()).tolist() == [True] * 4 + [False]


def test_the_plot_without_matplotlib(monkeypatch):
    flow = pybptt.gradient_flow(*orthogonal(4, 1.0, T=5))
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'pybptt\[plot\]'"):
        flow.plot()
