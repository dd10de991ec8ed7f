"""Reverse-mode automatic differentiation in 40 lines, and a recurrent network that goes through it.

The tape knows nothing of networks or of time. Run backwards over a loop, it is the sweep of backpropagation
through time all the same: every h_t ends up with the total derivative dL/dh_t, every matrix with the sum over
its uses. docs/autodiff.md explains it.

    python examples/reverse_mode.py [--time]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import pybptt
from pybptt import reference


# ---- The tape
class Variable:
    """A value, and dL/dvalue once `backward` has run. `parents`: (variable, d value -> what it adds to d)."""

    def __init__(self, tape: list, value, *parents):
        self.value = np.asarray(value, dtype=np.float64)
        self.d = np.zeros_like(self.value)
        self.tape = tape
        tape.append((self, parents))

    def __add__(self, b: Variable) -> Variable:  # c = a + b: da = dc, db = dc
        return Variable(self.tape, self.value + b.value, (self, lambda dc: dc), (b, lambda dc: dc))

    def __mul__(self, b: Variable) -> Variable:  # c = a * b by entry: da = dc * b, db = dc * a
        ways = (self, lambda dc: dc * b.value), (b, lambda dc: dc * self.value)
        return Variable(self.tape, self.value * b.value, *ways)

    def __matmul__(self, b: Variable) -> Variable:  # C = A B: dA = dC B^T, dB = A^T dC
        ways = (self, lambda dc: dc @ b.value.T), (b, lambda dc: self.value.T @ dc)
        return Variable(self.tape, self.value @ b.value, *ways)

    def transposed(self) -> Variable:
        return Variable(self.tape, self.value.T, (self, lambda dc: dc.T))

    def tanh(self) -> Variable:  # h = tanh(z): dz = (1 - h^2) * dh
        h = np.tanh(self.value)
        return Variable(self.tape, h, (self, lambda dh: (1 - h * h) * dh))

    def sum(self) -> Variable:
        return Variable(self.tape, self.value.sum(), (self, lambda dc: dc * np.ones_like(self.value)))

    def detach(self) -> Variable:  # the same value, and no way back
        return Variable(self.tape, self.value)


def backward(loss: Variable) -> None:
    loss.d[...] = 1
    for variable, parents in reversed(loss.tape):  # its uses all came later: its d is complete
        for parent, way_back in parents:
            parent.d += way_back(variable.d)


# ---- A network on it


def network(
    parameters: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray, k: int | None = None
) -> tuple[Variable, dict[str, Variable], list[Variable]]:
    """The squared error of an Elman network, summed; its parameters, and h_1 .. h_T.

    x (T, B, D), y (T, B, Q). With `k` the state is detached after every k steps.
    """
    tape: list = []
    theta = {name: Variable(tape, np.atleast_2d(value)) for name, value in parameters.items()}
    W_ih, W_hh, W_ho = (
        theta[name].transposed() for name in ("weight_ih_l0", "weight_hh_l0", "output.weight")
    )
    ones = Variable(tape, np.ones((x.shape[1], 1)))  # (B, 1): ones @ b has b in every row
    h = Variable(tape, np.zeros((x.shape[1], len(W_hh.value))))
    loss, states = Variable(tape, 0.0), []
    for t, (x_t, y_t) in enumerate(zip(x, y, strict=True)):
        if k is not None and t % k == 0:
            h = h.detach()
        b = theta["bias_ih_l0"] + theta["bias_hh_l0"]
        h = (Variable(tape, x_t) @ W_ih + h @ W_hh + ones @ b).tanh()
        error = h @ W_ho + ones @ theta["output.bias"] + Variable(tape, -y_t)
        loss = loss + (error * error).sum()
        states.append(h)
    return loss, theta, states


def problem(T: int, B: int, D: int, H: int, Q: int) -> tuple[pybptt.SequenceModel, np.ndarray, np.ndarray]:
    """A model, x and y."""
    rng = np.random.default_rng(0)
    layer = pybptt.RNN(D, H, dtype="float64", seed=0)
    model = pybptt.SequenceModel(layer, Q, loss="mse", reduction="sum", seed=1)
    return model, rng.normal(size=(T, B, D)), rng.normal(size=(T, B, Q))


def compare() -> None:
    model, x, y = problem(T=5, B=3, D=4, H=8, Q=2)
    loss, theta, states = network(model.parameters, x, y)
    backward(loss)
    value, g, _ = model.loss_and_grad(x, y, hidden=True)
    print(f"loss: {loss.value:.12f} by the tape, {value:.12f} by the core")
    for t, h in enumerate(states, 1):
        apart = np.abs(h.d - g.hidden[0, t - 1]).max()
        print(f"|dL/dh_{t}|: {np.linalg.norm(h.d):.6f}, at most {apart:.0e} from the sweep's")
    apart = max(
        np.abs(theta[name].d.reshape(value.shape) - value).max() for name, value in g.parameters.items()
    )
    print(f"all parameters: at most {apart:.0e} from the core's")


def seconds(call: Callable[[], object], least: float = 0.5) -> float:
    """Median of calls for at least `least` seconds, after one that does not count."""
    call()
    times = []
    while sum(times) < least:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def nodes_of(loss: Any) -> int:
    """How many nodes PyTorch's graph has, from a tensor back to the leaves."""
    seen, left = set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [parent for parent, _ in node.next_functions]
    return len(seen)


def measure(T: int, B: int, D: int, H: int, Q: int) -> None:
    """Of forward and backward together, and of what is kept in between."""
    try:
        import torch
    except ImportError:
        torch = None
    model, x, y = problem(T, B, D, H, Q)
    parameters = model.parameters

    def by_tape() -> None:
        backward(network(parameters, x, y)[0])

    def by_reference() -> None:
        reference.loss_and_grad(parameters, x, y, loss="mse", reduction="sum")

    def by_torch() -> Any:
        """The same loop in PyTorch, if it is there; returns the loss."""
        leaves = {name: torch.tensor(value, requires_grad=True) for name, value in parameters.items()}
        b = leaves["bias_ih_l0"] + leaves["bias_hh_l0"]
        h, loss = torch.zeros(B, H, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for x_t, y_t in zip(torch.from_numpy(x), torch.from_numpy(y), strict=True):
            h = torch.tanh(x_t @ leaves["weight_ih_l0"].T + h @ leaves["weight_hh_l0"].T + b)
            loss = loss + ((h @ leaves["output.weight"].T + leaves["output.bias"] - y_t) ** 2).sum()
        loss.backward()
        return loss

    kept = network(parameters, x, y)[0].tape
    numbers = sum(variable.value.size for variable, _ in kept) / T
    print(f"T, B, D, H, Q = {T}, {B}, {D}, {H}, {Q}; float64, threads: {pybptt.get_num_threads()}")
    print(f"the tape has {len(kept) / T:.0f} entries a step with {numbers:.0f} numbers; h_t has {B * H}")
    print(f"the tape               {1e3 * seconds(by_tape):8.2f} ms")
    if torch is not None:
        torch.set_num_threads(pybptt.get_num_threads())
        nodes = nodes_of(by_torch()) / T
        print(f"PyTorch's autograd     {1e3 * seconds(by_torch):8.2f} ms, {nodes:.0f} nodes a step")
    print(f"the sweep, in NumPy    {1e3 * seconds(by_reference):8.2f} ms")
    print(f"the sweep, in the core {1e3 * seconds(lambda: model.loss_and_grad(x, y)):8.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--time", action="store_true", help="measure, too")
    compare_only = not parser.parse_args().time
    compare()
    if not compare_only:
        for sizes in ((100, 1, 32, 64, 8), (100, 32, 32, 256, 8)):
            measure(*sizes)


if __name__ == "__main__":
    main()
