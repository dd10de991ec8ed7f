"""How far float32 gradients are from exact ones: pybptt, PyTorch and JAX against PyTorch in float64.

Run as `python benchmarks/accuracy.py`; `--steps 2000` leaves out the long sequences, which take some minutes.
It prints the table of docs/accuracy.md: for each gradient the errors of pybptt, PyTorch and JAX in units of
1e-7, each the largest of three seeds, and in the last row the largest ratio of pybptt's error to the better
of the others', case by case. All get the same float32 parameters and inputs; an error is
||g - g64|| / ||g64||, ||.|| the 2-norm of all entries of one gradient. The exit status is 1 where a ratio is
beyond its floor.
"""

from __future__ import annotations

import argparse
import sys

import jax
import jax.numpy as jnp
import numpy as np
import torch
from contestants import with_jax
from rows import Problem, Row, make_problem

import pybptt

B, D, H, Q = 8, 16, 64, 10
SEEDS = (0, 1, 2)
LOSSES = ("cross-entropy", "given dL/dh_t")  # of the steps' sum; the other is of a layer alone
PARAMETERS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "output.weight", "output.bias")
FLOORS = dict.fromkeys(PARAMETERS, 1.2) | {"x": 1.5, "h_0": 1.5}

Arrays = dict[str, np.ndarray]


def make_case(cell: str, T: int, loss: str, seed: int) -> tuple[Problem, Arrays]:
    """A problem, for the first loss with targets and an output layer, and h_0, of an LSTM c_0 too."""
    problem = make_problem(Row("", T, B, D, H, cell=cell), seed)
    rng = np.random.default_rng(100 + seed)
    state = {"h_0": rng.uniform(-1, 1, (B, H)).astype(np.float32)}
    if cell == "LSTM":
        state["c_0"] = rng.uniform(-1, 1, (B, H)).astype(np.float32)
    if loss != "cross-entropy":
        return problem, state
    output = {
        "output.weight": rng.uniform(-(H**-0.5), H**-0.5, (Q, H)),
        "output.bias": rng.uniform(-(H**-0.5), H**-0.5, Q),
    }
    parameters = problem.parameters | {name: values.astype(np.float32) for name, values in output.items()}
    return Problem(parameters, problem.x, y=rng.integers(0, Q, (T, B))), state


def with_pybptt(cell: str, problem: Problem, state: Arrays) -> Arrays:
    layer = getattr(pybptt, cell)(D, H)
    model = pybptt.SequenceModel(layer, Q, reduction="sum")
    for name, values in problem.parameters.items():
        model.parameters[name][...] = values
    start = tuple(values[None] for values in state.values())
    start = start if cell == "LSTM" else start[0]
    if problem.y is not None:
        _, g, _ = model.loss_and_grad(problem.x, problem.y, start, input=True)
    else:
        _, _, tape = layer.forward(problem.x, start)
        g = layer.backward(tape, problem.d_output)
    return g.parameters | {"x": g.input, "h_0": g.state[0][0] if cell == "LSTM" else g.state[0]}


def with_torch(cell: str, problem: Problem, state: Arrays, dtype: torch.dtype = torch.float32) -> Arrays:
    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype, requires_grad=True)

    layer, output = getattr(torch.nn, cell)(D, H, dtype=dtype), torch.nn.Linear(H, Q, dtype=dtype)
    for name, values in problem.parameters.items():
        module = output if name.startswith("output") else layer
        getattr(module, name.removeprefix("output.")).data = tensor(values).data
    x, start = tensor(problem.x), {name: tensor(values) for name, values in state.items()}
    first = tuple(values[None] for values in start.values())
    h, _ = layer(x, first if cell == "LSTM" else first[0])
    if problem.y is not None:
        logits = output(h).reshape(-1, Q)
        torch.nn.functional.cross_entropy(
            logits, torch.tensor(problem.y).reshape(-1), reduction="sum"
        ).backward()
    else:
        h.backward(tensor(problem.d_output))
    found = dict(layer.named_parameters()) | {f"output.{name}": p for name, p in output.named_parameters()}
    found = {name: found[name] for name in problem.parameters} | {"x": x, "h_0": start["h_0"]}
    return {name: values.grad.numpy() for name, values in found.items()}


def with_jax_(cell: str, problem: Problem, state: Arrays) -> Arrays:
    def loss(parameters, x, start):
        projected = x @ parameters["weight_ih_l0"].T
        one_step, _, z = with_jax.recurrence(with_jax.CELLS[cell], parameters, 0, projected)
        h = with_jax.states((one_step, (start["h_0"], start["c_0"]) if cell == "LSTM" else start["h_0"], z))
        if problem.y is None:
            return jnp.sum(h * problem.d_output)
        logits = h.reshape(-1, H) @ parameters["output.weight"].T + parameters["output.bias"]
        return jnp.sum(
            jax.nn.logsumexp(logits, axis=1)
            - jnp.take_along_axis(logits, problem.y.reshape(-1, 1), axis=1)[:, 0]
        )

    by_parameters, by_x, by_state = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(
        problem.parameters, problem.x, state
    )
    found = by_parameters | {"x": by_x, "h_0": by_state["h_0"]}
    return {name: np.asarray(values) for name, values in found.items()}


CONTESTANTS = {"pybptt": with_pybptt, "PyTorch": with_torch, "JAX": with_jax_}


def error(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def errors(cell: str, T: int, loss: str, seed: int) -> dict[str, list[float]]:
    """By the name of the gradient, the error of each of CONTESTANTS."""
    problem, state = make_case(cell, T, loss, seed)
    exact = with_torch(cell, problem, state, torch.float64)
    found = [call(cell, problem, state) for call in CONTESTANTS.values()]
    return {name: [error(g[name], exact[name]) for g in found] for name in exact}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[2000, 20000], metavar="T")
    parser.add_argument("--cells", nargs="+", default=list(with_jax.CELLS), choices=list(with_jax.CELLS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    largest = dict.fromkeys(FLOORS, 0.0)
    print(f"| cell | T | loss | {' | '.join(FLOORS)} |")
    print("|---" * (3 + len(FLOORS)) + "|")
    for cell in arguments.cells:
        for T in arguments.steps:
            for loss in LOSSES:
                cases = [errors(cell, T, loss, seed) for seed in SEEDS]
                columns = []
                for name in FLOORS:
                    if name not in cases[0]:
                        columns.append("")
                        continue
                    of_seeds = [case[name] for case in cases]
                    columns.append(
                        " ".join(f"{1e7 * max(of_one):.2f}" for of_one in zip(*of_seeds, strict=True))
                    )
                    for ours, *others in of_seeds:
                        largest[name] = max(largest[name], ours / min(others))
                print(f"| {cell} | {T} | {loss} | {' | '.join(columns)} |", flush=True)
    print(f"| largest ratio | | | {' | '.join(f'{ratio:.2f}' for ratio in largest.values())} |")
    return int(any(ratio > FLOORS[name] for name, ratio in largest.items()))


if __name__ == "__main__":
    sys.exit(main())
