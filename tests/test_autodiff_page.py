"""docs/autodiff.md: the tape that it quotes, what it prints, and what idioms of truncation are in pybptt."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from support import assert_all_close, assert_close, torch_forward

import pybptt
from pybptt import ARTBP, TBPTT, RandomTruncation, reference

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "autodiff.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "examples" / "reverse_mode.py"
T, B, D, H, Q = 12, 3, 4, 5, 2


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("reverse_mode", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def problem(example):
    return example.problem(T, B, D, H, Q)


# ---- The tape -------------------------------------------------------------------------------------------


def test_the_page_quotes_the_tape_of_40_lines():
    source = EXAMPLE.read_text(encoding="utf-8")
    tape = source[source.index("class Variable:") : source.index("\n# ---- A network")].strip()
    assert f"```python\n{tape}\n```" in PAGE
    assert len(tape.splitlines()) <= 40
    loop = PAGE.split("```python\n")[2].split("```")[0]
    assert all(line in source for line in loop.splitlines())


def test_the_page_shows_what_the_example_prints(example, capsys):
    """But for differences of the order of rounding errors, which depend on the machine."""
    example.compare()
    printed, shown = capsys.readouterr().out, PAGE.split("```text\n")[1].split("```")[0]
    for line, seen in zip(printed.splitlines(), shown.splitlines(), strict=True):
        assert line.partition("at most")[0] == seen.partition("at most")[0]
        assert "at most" not in line or float(line.partition("at most")[2].split()[0]) < 1e-13


def test_the_example_measures(torch, example, capsys, monkeypatch):
    """What the page's table is made of; here it runs, and its counts are those of the page."""
    monkeypatch.setattr(example, "seconds", lambda call: bool(call()) * 0.0)
    example.measure(100, 1, 32, 64, 8)
    printed = capsys.readouterr().out
    for counts in re.findall(r"the tape has (\d+) entries a step with (\d+) numbers|(\d+) nodes", printed):
        assert all(number in PAGE for number in counts)
    assert printed.count(" ms") == 4


def test_the_tape_gives_the_sweep(torch, example, problem):
    """dh_t and all parameters: of the reference's sweep, and of PyTorch's tape."""
    model, x, y = problem
    loss, theta, states = example.network(model.parameters, x, y)
    example.backward(loss)
    output, _, tape = reference.forward(model.parameters, x)
    expected, d_output, gradients = reference.loss_and_upstream(
        model.parameters, output, y, loss="mse", reduction="sum", last_only=False
    )
    g = reference.backward(tape, d_output)
    assert loss.value == pytest.approx(expected, rel=1e-13)
    assert_close(np.array([h.d for h in states]), g.hidden[0])
    found = {name: theta[name].d.reshape(value.shape) for name, value in model.parameters.items()}
    assert_all_close(found, g.parameters | gradients)
    assert_all_close(found, torch_gradients(torch, model, x, y))


def test_detach_of_the_tape(example, problem):
    model, x, y = problem
    for k in (1, 3, 4):
        loss, theta, _ = example.network(model.parameters, x, y, k)
        example.backward(loss)
        g = model.loss_and_grad(x, y, truncation=TBPTT(k, k))[1]
        assert_all_close(
            {name: theta[name].d.reshape(value.shape) for name, value in model.parameters.items()},
            dict(g.parameters),
        )


# ---- Idioms ---------------------------------------------------------------------------------------------


def torch_gradients(torch, model, x, y, between=lambda t, h: h, pieces=None):
    """By PyTorch's loop. `between(t, h)` makes the state that step t (from 0) reads of the one before.

    `pieces`: (first step, first step whose loss counts, end) of windows that are run one after the other.
    """
    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in model.parameters.items()}
    xs, ys = torch.from_numpy(x), torch.from_numpy(y)
    with torch.no_grad():
        before = torch_forward(torch, leaves, xs, torch.zeros(B, H, dtype=torch.float64), "tanh")
    for first, counted, end in pieces or [(0, 0, len(x))]:
        h, loss = before[first], 0.0
        for t in range(first, end):
            h = torch_forward(torch, leaves, xs[t : t + 1], between(t, h), "tanh")[-1]
            o = torch.nn.functional.linear(h, leaves["output.weight"], leaves["output.bias"])
            if t >= counted:
                loss = loss + ((o - ys[t]) ** 2).sum()
        loss.backward()
    return {name: leaf.grad.numpy() for name, leaf in leaves.items()}


def gradients(model, x, y, truncation=None):
    return dict(model.loss_and_grad(x, y, truncation=truncation)[1].parameters)


@pytest.mark.parametrize("k", [1, 3, 4, 12])
def test_detach_is_blocks(torch, problem, k):
    found = torch_gradients(torch, *problem, lambda t, h: h.detach() if t % k == 0 else h)
    assert_all_close(gradients(*problem, TBPTT(k, k)), found)


def test_a_rest_makes_a_difference(torch, problem):
    """12 steps in blocks of 5: detach leaves a block of 2; TBPTT's last window goes back 5 uses."""
    found = torch_gradients(torch, *problem, lambda t, h: h.detach() if t % 5 == 0 else h)
    with pytest.raises(AssertionError):
        assert_all_close(gradients(*problem, TBPTT(5, 5)), found, 1e-3)
    found = torch_gradients(torch, *problem, pieces=[(0, 0, 5), (5, 5, 10), (7, 10, 12)])
    assert_all_close(gradients(*problem, TBPTT(5, 5)), found)


def test_windows_that_are_run_again(torch, problem):
    k1, k2 = 2, 5
    pieces = [(max(0, end - k2), end - k1, end) for end in range(k1, T + 1, k1)]
    assert_all_close(gradients(*problem, TBPTT(k1, k2)), torch_gradients(torch, *problem, pieces=pieces))


def test_a_window_a_loss_is_the_textbook(torch, problem):
    k = 3
    pieces = [(max(0, t - k), t, t + 1) for t in range(T)]
    assert_all_close(gradients(*problem, TBPTT(1, k + 1)), torch_gradients(torch, *problem, pieces=pieces))


def test_a_scan_that_goes_back_over_its_last_steps(torch, problem):
    """What Theano's truncate_gradient=k did, with the output layer in the scan: tried with pytensor."""
    k = 4
    found = torch_gradients(torch, *problem, pieces=[(T - k, T - k, T)])
    assert_all_close(gradients(*problem, TBPTT(T, k)), found)


def test_a_random_factor_at_a_detached_state(torch, problem):
    model, x, y = problem
    for truncation in (RandomTruncation(0.7, seed=1), ARTBP(0.4, seed=2)):
        xi = torch.from_numpy(truncation.factors(T, B))[:, :, None]
        found = torch_gradients(
            torch, model, x, y, lambda t, h, xi=xi: xi[t] * h + ((1 - xi[t]) * h).detach()
        )
        assert_all_close(gradients(model, x, y, truncation), found)


def test_an_update_after_every_block(torch, problem):
    """The state comes from older parameters, and no derivative from blocks before."""
    model, x, y = problem
    state = torch.zeros(B, H, dtype=torch.float64)
    k = 4
    for step in model.stream(x, y, truncation=TBPTT(k, k)):
        leaves = {name: torch.tensor(value, requires_grad=True) for name, value in model.parameters.items()}
        block = slice(step.start, step.stop)
        states = torch_forward(torch, leaves, torch.from_numpy(x[block]), state.detach(), "tanh")
        o = torch.nn.functional.linear(
            torch.stack(states[1:]), leaves["output.weight"], leaves["output.bias"]
        )
        ((o - torch.from_numpy(y[block])) ** 2).sum().backward()
        assert_all_close(dict(step.gradients.parameters), {n: v.grad.numpy() for n, v in leaves.items()})
        state = states[-1]
        model.flat -= 0.01 * step.gradients.flat


@pytest.mark.parametrize(("cell", "a_step"), [("RNN", 4), ("GRU", 14), ("LSTM", 13)])
def test_nodes_that_pytorch_makes_of_its_layers(torch, example, cell, a_step):
    """As the page says of PyTorch 2.13. In float32 an LSTM may be a single node, depending on the machine."""
    if not torch.__version__.startswith("2.13."):
        pytest.skip("the page speaks of 2.13")

    def nodes(steps):
        layer = getattr(torch.nn, cell)(D, H, dtype=torch.float64)
        return example.nodes_of(layer(torch.zeros(steps, B, D, dtype=torch.float64))[0].sum())

    assert nodes(20) - nodes(10) == 10 * a_step


@pytest.fixture
def jax():
    jax = pytest.importorskip("jax", reason="it is the judge")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield jax
    jax.config.update("jax_enable_x64", before)


def jax_loss(jax, k=None):
    jnp = jax.numpy

    def loss(theta, x, y):
        def step(h, inputs):
            t, x_t, y_t = inputs
            if k is not None:
                h = jnp.where(t % k == 0, jax.lax.stop_gradient(h), h)
            b = theta["bias_ih_l0"] + theta["bias_hh_l0"]
            h = jnp.tanh(x_t @ theta["weight_ih_l0"].T + h @ theta["weight_hh_l0"].T + b)
            o = h @ theta["output.weight"].T + theta["output.bias"]
            return h, ((o - y_t) ** 2).sum()

        return jax.lax.scan(step, jnp.zeros((B, H)), (jnp.arange(len(x)), x, y))[1].sum()

    return loss


@pytest.mark.parametrize("k", [None, 1, 3, 4])
def test_stop_gradient_in_jax(jax, problem, k):
    model, x, y = problem
    found = jax.grad(jax_loss(jax, k))(dict(model.parameters), x, y)
    expected = gradients(model, x, y, None if k is None else TBPTT(k, k))
    assert_all_close({name: np.asarray(found[name]) for name in expected}, expected)


def test_jax_has_two_scans_the_second_one_backwards(jax, problem):
    model, x, y = problem
    for steps in (T, T // 2):
        equations = jax.make_jaxpr(jax.grad(jax_loss(jax)))(dict(model.parameters), x[:steps], y[:steps]).eqns
        forward, back = (e.params | {"out": e.outvars} for e in equations if e.primitive.name == "scan")
        assert (forward["reverse"], back["reverse"]) == (False, True)
        assert (forward["length"], back["length"]) == (steps, steps)
        kept = [v.aval.shape for v in forward["out"]]
        assert (steps, B, H) in kept  # what the way back needs, stacked over time
        # dW_hh is carried and added to at every step.
        assert any(v.aval.shape in ((H, H), (B, H, H)) for v in back["out"])


# ---- D2L's partitions of a stream -----------------------------------------------------------------------


def test_sequential_partition():
    """Dive into Deep Learning: columns of consecutive text from an offset, T steps at a time."""
    corpus, batch, steps = np.arange(103), 4, 7
    for offset in range(steps + 1):
        usable = (len(corpus) - offset - 1) // batch * batch
        xs = corpus[offset : offset + usable].reshape(batch, -1)
        ys = corpus[offset + 1 : offset + 1 + usable].reshape(batch, -1)
        expected = [
            (xs[:, i : i + steps], ys[:, i : i + steps]) for i in range(0, xs.shape[1] - steps + 1, steps)
        ]
        found = list(pybptt.data.sequential(corpus, batch, steps, offset=offset))
        assert len(found) == len(expected)
        for i, (item, (x, y)) in enumerate(zip(found, expected, strict=True)):
            np.testing.assert_array_equal(item.x.T, x)
            np.testing.assert_array_equal(item.y.T, y)
            assert item.carry == (i > 0)


def test_random_partition():
    """Stretches of T steps from an offset in [0, T - 1] on, each once, in random order; no state carried."""
    corpus, batch, steps = np.arange(103), 4, 7
    partition = pybptt.data.random(corpus, batch, steps, seed=0)
    orders = set()
    for _ in range(20):
        starts = []
        for item in partition:
            np.testing.assert_array_equal(item.x, item.x[0] + np.arange(steps)[:, None])
            np.testing.assert_array_equal(item.y, item.x + 1)
            assert not item.carry
            starts += item.x[0].tolist()
        offset = min(starts) % steps
        possible = list(range(offset, offset + (len(corpus) - offset - 1) // steps * steps, steps))
        assert len(set(starts)) == len(starts) == len(possible) // batch * batch
        assert set(starts) <= set(possible)
        orders.add(tuple(starts))
    assert len(orders) == 20
