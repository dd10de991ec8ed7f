"""See how gradients flow back through time: RNN, LSTM and GRU side by side, or a trained model.

By default new networks read the adding problem (Hochreiter and Schmidhuber 1997): of --steps numbers two are
marked, and the sum of those is asked for at the end. So the loss is at the last step alone, and |dL/dh_t|
shows what of its gradient gets back to step t. The networks are not trained. Biases of the LSTM's forget gate
and the GRU's update gate are those of Tallec and Ollivier (2018), which hold the state for up to --memory
steps. With --memory 0 everything is drawn at random as in PyTorch, these gates are half closed, and the
gradient vanishes in all three networks: gates help because they can stay open, not by being there.

With --text the networks read characters of a text in place of the adding problem, and with --load it is the
model of a saved `train --save` that reads the end of its text (give its --text again), which was held out;
what is asked for is the character that comes next after the last one.

dh_T/dh_t, and the verdict by its largest singular value, are those of the first sequence. Vanishing: its rate
makes it less than 1/100 from the last step back to the first. Exploding: more than 100. Else healthy.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import GradientFlow, SequenceModel, gradient_flow, set_num_threads
from .common import MOST, CommandError, count, layers, natural, print_table, require_drawable, threads, whole
from .text import HELD_OUT, read_text, vocabulary_of
from .training import Settings, load_run, new_layer, text_of

__all__ = ["add_arguments", "run"]

_Array = npt.NDArray[Any]

CELLS = ("rnn", "lstm", "gru")
ROWS = 11  # of the table
WHY = """The verdict is by factor ^ {}: below 1/100 vanishing, above 100 exploding, else healthy. The factor
is the slope of all steps together. A gradient that is small at once, in the steps next to T, but hardly gets
smaller after them, as an LSTM's, is healthy: what makes learning hard is to shrink with the distance."""
TRAINED = ("cell", "layers", "hidden")  # a saved model can't be looked at with others


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    network = parser.add_argument_group("networks and data")
    network.add_argument("--load", metavar="FILE", help="the trained model in this .npz, of train --save")
    network.add_argument("--text", metavar="FILE", help="read this UTF-8 text, not the adding problem")
    network.add_argument("--cell", choices=CELLS, help="one network of this cell (default: one of each)")
    network.add_argument("--layers", metavar="N", type=layers, help="recurrent layers (default 1)")
    network.add_argument("--hidden", metavar="N", type=natural, help="hidden units (default 64)")
    network.add_argument(
        "--memory",
        metavar="N",
        type=count,
        help="steps that the gates' biases are made for; 0: no such biases (default: as --steps)",
    )
    network.add_argument("--steps", metavar="N", type=natural, default=100, help="T (default 100)")
    network.add_argument("--batch", metavar="N", type=natural, default=16, help="sequences (default 16)")
    network.add_argument("--seed", metavar="N", type=whole, default=1, help="of networks, data (default 1)")
    network.add_argument("--threads", metavar="N", type=threads, help="threads of the core")

    output = parser.add_argument_group("what it shows")
    output.add_argument(
        "--plot",
        metavar="FILE",
        help="the picture (.png, .pdf, .svg; needs matplotlib; default gradient_flow.png)",
    )
    output.add_argument("--details", action="store_true", help="print each network's whole table, too")


def run(args: argparse.Namespace) -> int:
    """Measure, print, draw."""
    path = args.plot or "gradient_flow.png"
    drawn = importlib.util.find_spec("matplotlib") is not None
    if args.plot or drawn:
        require_drawable(path)
    if args.steps < 2:
        raise CommandError("--steps: there is no flow in a single step; give 2 or more")
    if args.steps * args.batch > MOST:
        raise CommandError(f"--steps {args.steps} times --batch {args.batch} is more than {MOST:,}")
    if args.threads:
        set_num_threads(args.threads)

    flows = {
        name: gradient_flow(model, x, y) for name, model, x, y in (_trained if args.load else _fresh)(args)
    }
    if args.details:
        for name, flow in flows.items():
            print(f"\n{name}\n\n{flow}")
    print()
    _print(flows, args.steps)
    print()
    if drawn:
        _draw(path, flows)
        print(f"drawn in {path}")
    else:
        print(f"No picture: that needs matplotlib. pip install 'pybptt[plot]', and {path} will be drawn.")
    return 0


_Problems = Iterator[tuple[str, SequenceModel[Any], _Array, _Array]]


def _fresh(args: argparse.Namespace) -> _Problems:
    """New networks: name, model, x, y."""
    rng = np.random.default_rng(args.seed)
    if args.text:
        text = read_text(args.text)
        vocabulary = vocabulary_of(text)
        symbols = outputs = len(vocabulary)
        x, y = _characters(vocabulary.encode(text), args)
        data = f"{args.steps} characters of {args.text}"
    else:
        symbols, outputs = 2, 1
        x, y = adding_problem(args.steps, args.batch, rng)
        data = f"the adding problem over {args.steps} steps"
    memory = args.steps if args.memory is None else args.memory
    print(f"new networks; {data}, {args.batch} sequences; the loss is at the last step alone")
    if args.cell != "rnn":
        made = f"for memories of up to {memory} steps" if memory else "drawn at random, as all parameters are"
        print(f"biases of the LSTM's and the GRU's gates: {made}")
    for cell in [args.cell] if args.cell else CELLS:
        settings = Settings(cell=cell, layers=args.layers or 1, hidden=args.hidden or 64, seed=args.seed)
        layer = new_layer(settings, symbols)
        if memory:
            chrono(layer, memory, rng)
        model: SequenceModel[Any] = SequenceModel(
            layer, outputs, loss="cross_entropy" if args.text else "mse", last_only=True, seed=args.seed + 1
        )
        yield cell, model, x, y


def _trained(args: argparse.Namespace) -> _Problems:
    """The model of a saved run, with a loss at the last step alone."""
    saved = load_run(args.load)
    settings, vocabulary = saved.settings, saved.vocabulary
    symbols = len(vocabulary)
    model: SequenceModel[Any] = SequenceModel(new_layer(settings, symbols), symbols, last_only=True)
    model.flat = saved.model.flat
    for name in TRAINED:
        if getattr(args, name) not in (None, getattr(settings, name)):
            raise CommandError(
                f"--{name} {getattr(args, name)} doesn't fit {args.load}, with {getattr(settings, name)}"
            )
    if args.memory is not None:
        raise CommandError("--memory is for new networks; the biases of a trained one are what they are")
    text = text_of(settings, args.text, args.load)
    held_out = vocabulary.encode(text[len(text) - int(len(text) * HELD_OUT) :])
    x, y = _characters(held_out, args)
    print(
        f"{args.load}, {saved.step:,} training steps; {args.batch} stretches of {args.steps} "
        "characters of the held-out text; the loss is at the last step alone"
    )
    yield settings.cell, model, x, y


def _characters(ids: _Array, args: argparse.Namespace) -> tuple[_Array, _Array]:
    """x (T, B): stretches that begin at even distances; y (B,): the character after each."""
    if len(ids) <= args.steps:
        raise CommandError(f"the text's {len(ids)} characters are too few for --steps {args.steps}")
    begins = np.linspace(0, len(ids) - args.steps - 1, args.batch).astype(np.int64)
    stretches = ids[begins + np.arange(args.steps + 1)[:, np.newaxis]]
    return stretches[:-1], stretches[-1]


def adding_problem(steps: int, batch: int, rng: np.random.Generator) -> tuple[_Array, _Array]:
    """x (T, B, 2): numbers in [0, 1), and 1 where marked, once in each half; y (B, 1): the marked ones' sum.

    Hochreiter and Schmidhuber (1997), Long short-term memory, Neural Computation 9, task 4.
    """
    x = np.zeros((steps, batch, 2), np.float32)
    x[:, :, 0] = rng.random((steps, batch))
    row = np.arange(batch)
    x[rng.integers(0, steps // 2, batch), row, 1] = 1
    x[rng.integers(steps // 2, steps, batch), row, 1] = 1
    return x, x.prod(axis=-1).sum(axis=0)[:, np.newaxis]


def chrono(layer: Any, memory: int, rng: np.random.Generator) -> None:
    """Biases of an LSTM or a GRU for memories of up to so many steps.

    Tallec and Ollivier (2018), Can recurrent neural networks warp time?, ICLR, section 2: with a forget gate
    of sigmoid(b) a unit's memory lasts about 1 + exp(b) steps. So b_f = log(U), U uniform in [1, memory - 1],
    and b_i = -b_f; of a GRU b_z = log(U), as z is what keeps h_{t-1}. An RNN has no such bias.
    """
    H = layer.hidden_size
    for name, bias in layer.parameters.items():
        if not name.startswith("bias_ih") or layer._cell == "rnn":
            continue
        kept = np.log(rng.uniform(1, max(1, memory - 1), H))
        other = layer.parameters[name.replace("_ih", "_hh")]
        bias[H : 2 * H] = kept  # f of i f g o, or z of r z n
        other[H : 2 * H] = 0
        if layer._cell == "lstm":
            bias[:H] = -kept
            other[:H] = 0


def _print(flows: dict[str, GradientFlow], steps: int) -> None:
    """One column for each layer of each network."""
    columns = [
        (name if len(flow.runs) == 1 else f"{name} {run}", flow, i)
        for name, flow in flows.items()
        for i, run in enumerate(flow.runs)
    ]
    times = np.unique(np.linspace(1, steps, ROWS).round().astype(np.int64))[::-1]

    def row(title: str, values: Any) -> tuple[str, ...]:
        return title, *(values(flow, i) for _, flow, i in columns)

    def arrived(t: int) -> tuple[str, ...]:
        return row(
            f"t = {t}", lambda f, i: f"{_ratio(f.hidden_norms[i, t - 1], f.hidden_norms[i, steps - 1]):.1e}"
        )

    print_table(
        ("|dL/dh_t| / |dL/dh_T|", *(name for name, _, _ in columns)),
        [
            *(arrived(int(t)) for t in times),
            row("|dL/dh_T|", lambda f, i: f"{f.hidden_norms[i, -1]:.1e}"),
            row("largest s.v. of dh_T/dh_1", lambda f, i: f"{f.singular_values[i, 0]:.1e}"),
            row("factor a step back", lambda f, i: f"{f.rates[i]:.3f}"),
            row(f"factor ^ {steps - 1}", lambda f, i: f"{f.rates[i] ** (steps - 1):.1e}"),
            row("verdict", lambda f, i: f.verdicts[i]),
        ],
    )
    print(f"\n{WHY.format(steps - 1)}\n")
    print_table(
        ("W_hh", "spectral radius", "largest s.v.", "smallest s.v."),
        [
            (f"{name} {gate}" if len(flow.gates) > 1 else name, *(f"{number:.3f}" for number in numbers))
            for name, flow, i in columns
            for gate, *numbers in zip(
                flow.gates,
                flow.spectral_radii[i],
                flow.recurrent_singular_values[i, :, 0],
                flow.recurrent_singular_values[i, :, -1],
                strict=True,
            )
        ],
    )


def _ratio(a: float, b: float) -> float:
    return float(a) / float(b) if b else math.nan


def _draw(path: str, flows: dict[str, GradientFlow]) -> None:
    figure = importlib.import_module("matplotlib.figure").Figure(figsize=(9, 5.5), layout="constrained")
    ax = figure.subplots()
    for name, flow in flows.items():
        flow.plot(ax=ax, label=name)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot draw {path}: {error}") from None
