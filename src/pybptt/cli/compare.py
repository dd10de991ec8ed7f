"""Check the core's gradients on text against plain NumPy, and show the speed-up.

The plain NumPy is pybptt.reference, in float64: the memoised sweep, and for one layer of the rnn cell also
BPTT as textbooks have it, two nested loops over time. The error of a gradient is its largest difference from
that of the slowest of these, relative to its largest entry. The bound grows with the root of the number of
terms summed. Exit code 1 if an error is beyond it.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import SequenceModel, bptt, get_num_threads, reference, set_num_threads
from .common import CommandError, layers, natural, print_table, threads, whole
from .text import Corpus, read_text
from .training import Settings, new_layer

__all__ = ["add_arguments", "run"]

_Array = npt.NDArray[Any]
_Gradients = Mapping[str, _Array]
_Ways = dict[str, Callable[[], _Gradients]]

SECONDS = 0.5  # to time one way
LOOPS, SWEEP, CORE64, CORE32 = "two loops, NumPy", "sweep, NumPy", "pybptt float64", "pybptt float32"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--text", metavar="FILE", help="UTF-8 text (default: Python's standard library)")
    parser.add_argument("--cell", choices=("rnn", "lstm", "gru"), default="rnn", help="(default rnn)")
    parser.add_argument("--layers", metavar="N", type=layers, default=1, help="(default 1)")
    parser.add_argument("--hidden", metavar="N", type=natural, default=100, help="hidden units (default 100)")
    parser.add_argument("--batch", metavar="N", type=natural, default=4, help="sequences (default 4)")
    parser.add_argument("--window", metavar="N", type=natural, default=200, help="their length (default 200)")
    parser.add_argument("--seed", metavar="N", type=whole, default=1, help="of the parameters (default 1)")
    parser.add_argument("--threads", metavar="N", type=threads, help="threads of the core")


def run(args: argparse.Namespace) -> int:
    """Compute each gradient in every way; print errors and times."""
    if args.threads:
        set_num_threads(args.threads)
    corpus = Corpus(read_text(args.text), args.batch)
    if len(corpus.train) <= args.window:
        raise CommandError(f"the text is too short for --batch {args.batch} and --window {args.window}")
    x, y = corpus.train[: args.window], corpus.train[1 : args.window + 1]
    symbols = len(corpus.vocabulary)

    models: dict[str, SequenceModel[Any]] = {}
    for dtype in ("float32", "float64"):
        settings = Settings(
            cell=args.cell, layers=args.layers, hidden=args.hidden, dtype=dtype, seed=args.seed
        )
        models[dtype] = SequenceModel(new_layer(settings, symbols), symbols, seed=args.seed + 1)
    models["float64"].flat = models["float32"].flat.astype(np.float64)  # so that one reference serves both

    plain = args.cell == "rnn" and args.layers == 1
    print(
        f"{args.batch} x {args.window} characters, {args.layers} x {args.hidden} {args.cell} units, "
        f"{get_num_threads()} threads"
    )
    ways = _model_ways(models, x, y) if plain else _network_ways(models, x, y, args.cell, args.layers)
    terms = args.batch * args.window
    right = _compare("loss and gradients of pybptt.SequenceModel", ways, terms, args.hidden)
    if plain:
        ways = _bptt_ways(models, x[:, 0].copy(), y[:, 0].copy())
        right &= _compare("pybptt.bptt, the first sequence", ways, args.window, args.hidden)
    if not right:
        raise CommandError("an error is beyond the bound", code=1)
    return 0


def _network_ways(
    models: dict[str, SequenceModel[Any]], x: _Array, y: _Array, cell: str, layers: int
) -> _Ways:
    def core(dtype: str) -> _Gradients:
        return models[dtype].loss_and_grad(x, y)[1].parameters

    def plain() -> _Gradients:
        parameters = models["float64"].parameters
        return reference.run_loss_and_grad(cell, parameters, x, y, num_layers=layers)[1].parameters

    return {SWEEP: plain, CORE64: lambda: core("float64"), CORE32: lambda: core("float32")}


def _model_ways(models: dict[str, SequenceModel[Any]], x: _Array, y: _Array) -> _Ways:
    def plain(method: str) -> _Gradients:
        return reference.loss_and_grad(models["float64"].parameters, x, y, method=method)[1]

    def core(dtype: str) -> _Gradients:
        return models[dtype].loss_and_grad(x, y)[1].parameters

    return {
        LOOPS: lambda: plain("two_loops"),
        SWEEP: lambda: plain("sweep"),
        CORE64: lambda: core("float64"),
        CORE32: lambda: core("float32"),
    }


def _bptt_ways(models: dict[str, SequenceModel[Any]], x: _Array, y: _Array) -> _Ways:
    def way(function: Callable[..., tuple[_Array, ...]], dtype: str) -> _Gradients:
        parameters = models[dtype].parameters
        weights = (parameters[name] for name in ("weight_ih_l0", "output.weight", "weight_hh_l0"))
        return dict(zip(("dLdU", "dLdV", "dLdW"), function(*weights, x, y), strict=True))

    return {
        LOOPS: lambda: way(reference.bptt, "float64"),
        CORE64: lambda: way(bptt, "float64"),
        CORE32: lambda: way(bptt, "float32"),
    }


def _compare(title: str, ways: _Ways, terms: int, hidden: int) -> bool:
    """Print errors against the first way, and times; return whether all errors are within their bounds."""
    results, seconds = {}, {}
    for name, way in ways.items():
        results[name], seconds[name] = _timed(way)
    expected = results.pop(next(iter(ways)))
    errors = {
        name: {key: _error(result[key], expected[key]) for key in expected}
        for name, result in results.items()
    }
    bounds = {name: _bound(np.float32 if name == CORE32 else np.float64, terms, hidden) for name in results}

    print(f"\n{title}")
    print_table(
        ("error in", *errors),
        [
            *((key, *(f"{error[key]:.1e}" for error in errors.values())) for key in expected),
            ("bound", *(f"{bound:.1e}" for bound in bounds.values())),
        ],
    )
    print()
    print_table(
        ("time", "milliseconds", f"{CORE32} is faster by"),
        [(name, f"{1000 * s:,.3f}", f"{s / seconds[CORE32]:,.1f} x") for name, s in seconds.items()],
    )
    # "<=" is False for NaN, so that fails as well.
    return all(error <= bounds[name] for name in errors for error in errors[name].values())


def _error(found: _Array, expected: _Array) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _bound(dtype: type[np.floating[Any]], terms: int, hidden: int) -> float:
    """Rounding errors of sums of `terms` and of `hidden` terms add up as a random walk does; 10 is margin."""
    return 10 * float(np.finfo(dtype).eps) * math.sqrt(terms + hidden)


def _timed(way: Callable[[], _Gradients]) -> tuple[_Gradients, float]:
    """The result, and the shortest time among the calls that fit into `SECONDS`."""
    shortest, start = math.inf, time.perf_counter()
    while True:
        before = time.perf_counter()
        result = way()
        after = time.perf_counter()
        shortest = min(shortest, after - before)
        if after - start > SECONDS:
            return result, shortest
