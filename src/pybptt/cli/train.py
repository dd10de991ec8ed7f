"""Train a character model on text and watch it; by default on the source of Python's standard library.

The network is recurrent layers (--cell, --layers) and an output layer; it reads a character and predicts the
next. The text is cut into --batch parallel streams that advance by --window characters a step. The state is
carried from window to window, the gradient is not: back-propagation is truncated at the window's beginning.
Adam; the gradient is clipped to norm 1; the learning rate rises during the first twentieth of the run and
then falls to 0 along half a cosine. Characters rarer than 1 in 100,000 become one unknown character. The last
5 % of the text is held out.

A run takes about a minute, however fast the machine is, and a faster one gets further. With --steps or
--epochs it takes as long as it takes, and comes to the same network on every machine.

Ctrl-C ends a run in order: it is saved if --save is given, the summary is printed, and the exit code is
130. With --load it goes on, and ends with the parameters of a run that was never stopped. The text is not in
that file, and no file is read because another one names it: give it again with --text.
"""

from __future__ import annotations

import argparse
import importlib
import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from .. import get_num_threads, set_num_threads
from .common import (
    MOST,
    CommandError,
    count,
    non_negative,
    positive,
    print_table,
    require_drawable,
    require_writable,
    threads,
)
from .progress import progress
from .text import Corpus, bigram_loss, unigram_loss
from .training import CHOICES, MAX_NORM, NUMBERS, Settings, Training, load_run, text_of

__all__ = ["add_arguments", "run"]

EVALUATIONS = 20  # in a whole run
MINUTES = 1  # of a new run, if no length is given
# A saved run can't go on with others.
FIXED = ("cell", "layers", "dropout", "hidden", "nonlinearity", "dtype", "seed", "batch", "window")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options. Those of `Settings` are None if not given, so that --load can tell."""
    default = Settings()

    def add(group: argparse._ArgumentGroup, name: str, metavar: str | None, text: str) -> None:
        group.add_argument(
            f"--{name}",
            metavar=metavar,
            type=NUMBERS.get(name, str),
            choices=CHOICES.get(name),
            help=f"{text} (default {getattr(default, name)})".lstrip(),
        )

    network = parser.add_argument_group("text and network")
    network.add_argument("--text", metavar="FILE", help="UTF-8 text (default: Python's standard library)")
    add(network, "cell", None, "of the recurrent layers")
    add(network, "layers", "N", "recurrent layers")
    add(network, "dropout", "P", "probability of a zero between layers, in training")
    add(network, "hidden", "N", "hidden units")
    add(network, "nonlinearity", None, "of the rnn cell's units")
    add(network, "dtype", None, "")
    add(network, "seed", "N", "of parameters and sample")

    work = parser.add_argument_group("training")
    add(work, "batch", "N", "parallel streams")
    add(work, "window", "N", "characters a step")
    work.add_argument(
        "--lr",
        metavar="X",
        type=NUMBERS["lr"],
        help="largest learning rate (default 1 / hidden, at most 0.005)",
    )
    length = work.add_mutually_exclusive_group()
    length.add_argument(
        "--steps",
        metavar="N",
        type=NUMBERS["steps"],
        help="length of the run; the result is then the same on every machine",
    )
    length.add_argument("--epochs", metavar="X", type=positive, help="its length in passes over the text")
    length.add_argument(
        "--minutes",
        metavar="X",
        type=NUMBERS["minutes"],
        help=f"its length in time (default {MINUTES}); the result depends on the machine's speed",
    )
    work.add_argument("--threads", metavar="N", type=threads, help="threads to use; the result is the same")

    files = parser.add_argument_group("files")
    files.add_argument(
        "--save", metavar="FILE", help="write the run to this .npz now and then, and at its end"
    )
    files.add_argument(
        "--load",
        metavar="FILE",
        help="go on with the run in this .npz, with its settings; give its --text again",
    )
    files.add_argument(
        "--plot", metavar="FILE", help="draw the training curves (.png, .pdf, .svg; needs matplotlib)"
    )

    sample = parser.add_argument_group("what it writes at the end")
    sample.add_argument(
        "--sample", metavar="N", type=count, default=600, help="characters (default 600; 0: nothing)"
    )
    sample.add_argument("--prompt", metavar="TEXT", default="def ", help="the beginning (default 'def ')")
    sample.add_argument(
        "--temperature",
        metavar="X",
        type=non_negative,
        default=0.7,
        help="1: as likely as the model finds it; 0: always the likeliest character (default 0.7)",
    )


def run(args: argparse.Namespace) -> int:
    """Read, train, save, print."""
    started = time.perf_counter()
    if args.save:
        require_writable(args.save)
    if args.plot:
        require_drawable(args.plot)
    if args.threads:
        set_num_threads(args.threads)

    training = _prepare(args)
    corpus, settings = training.corpus, training.settings
    print(
        f"{settings.text or 'the standard library'}: {corpus.train[1:].size:,} characters to train on, "
        f"{corpus.held_out[1:].size:,} held out, {len(corpus.vocabulary)} symbols",
        file=sys.stderr,
    )
    unknown = sorted({c for c in args.prompt if c not in corpus.vocabulary})
    if unknown and args.sample:
        print(
            f"--prompt: {', '.join(map(repr, unknown))} not in the text; read as its unknown character",
            file=sys.stderr,
        )
    completed = _train(training, args.save)

    bigram = bigram_loss(corpus)
    losses = {
        "unigram table": unigram_loss(corpus),
        "bigram table": bigram,
        f"this network ({_network(settings)})": training.held_out_loss(),
    }
    print_table(
        ("on held-out text", "perplexity", "bits a character"),
        [(name, _perplexity(loss), f"{loss / math.log(2):.3f}") for name, loss in losses.items()],
    )
    print(
        f"\n{training.step:,} steps ({training.step / training.windows:.2f} passes over the text) "
        f"in {training.seconds:.1f} s: {training.speed():,.0f} characters/s\n"
        f"{time.perf_counter() - started:.1f} s in all, from the command's start\n"
        f"{training.model.flat.size:,} parameters, {settings.dtype}, {get_num_threads()} threads"
    )
    if args.plot:
        _plot(args.plot, training, bigram)
    if args.sample:
        written = training.model.generate(
            corpus.vocabulary.encode(args.prompt or "\n"),
            args.sample,
            temperature=args.temperature,
            seed=settings.seed,
            suppress_tokens=[0],  # the unknown character
        )
        print(f"\n{args.prompt}{corpus.vocabulary.decode(written)}")
    return 0 if completed else 130


def _network(settings: Settings) -> str:
    """The network in a few words: "256 tanh", "2 x 128 lstm"."""
    units = settings.nonlinearity if settings.cell == "rnn" else settings.cell
    layers = "" if settings.layers == 1 else f"{settings.layers} x "
    return f"{layers}{settings.hidden} {units}"


def _prepare(args: argparse.Namespace) -> Training:
    """The run that the options describe, new or loaded."""
    saved = load_run(args.load) if args.load else None
    settings = _settings(args, saved.settings if saved else Settings())
    training = Training(settings, Corpus(text_of(settings, args.text, args.load), settings.batch))
    if args.epochs:
        steps = math.ceil(args.epochs * training.windows)
        if steps > MOST:
            raise CommandError(f"--epochs {args.epochs:g} are more than {MOST:,} steps")
        training.settings = replace(settings, steps=steps, minutes=None)
    if saved:
        training.restore(saved, args.load)
    return training


def _settings(args: argparse.Namespace, base: Settings) -> Settings:
    """The options given, on top of those of the loaded run or the defaults."""
    names = [field.name for field in fields(Settings)]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.text:
        given["text"] = str(Path(args.text).absolute())
    if args.steps:
        given["minutes"] = None
    elif not (args.load or args.epochs or args.minutes):
        given["minutes"] = MINUTES
    if replace(base, **given).dropout and replace(base, **given).layers == 1:
        raise CommandError("--dropout is between layers: it needs --layers 2 or more")
    if args.nonlinearity and replace(base, **given).cell != "rnn":
        raise CommandError("--nonlinearity is of the rnn cell; the others have their own")
    for name in FIXED:
        if args.load and given.get(name, getattr(base, name)) != getattr(base, name):
            raise CommandError(
                f"--{name} {given[name]} doesn't fit {args.load}, a run with {getattr(base, name)}"
            )
    return replace(base, **given)


def _train(training: Training, save: str | None) -> bool:
    """Go on until the run is complete, or until Ctrl-C: then return False."""
    settings = training.settings
    total, unit = (settings.steps, "steps") if settings.minutes is None else (60 * settings.minutes, "s")
    with closing(progress(training.done() * total, total, unit)) as display, _interruptible() as interrupted:
        display.note("    step   train ppl   held-out ppl   gradient norm   characters/s")
        while training.done() < 1 and not interrupted:
            before = int(training.done() * EVALUATIONS)
            loss, norm = training.advance()
            display.show(
                training.done() * total, f"ppl {_perplexity(loss)}, |g| {norm:.2f}, {_speed(training)}"
            )
            if int(training.done() * EVALUATIONS) > before:
                training.evaluate()
                step, loss, norm, held_out = training.history[-1]
                display.note(
                    f"{step:8,.0f}   {_perplexity(loss):>9}   {_perplexity(held_out):>12}   {norm:13.3f}   "
                    f"{training.speed():12,.0f}"
                )
                if save:
                    training.save(save)
    if save:
        training.save(save)
    return not interrupted


def _speed(training: Training) -> str:
    return f"{training.speed():,.0f} characters/s"


@contextmanager
def _interruptible() -> Iterator[list[bool]]:
    """A list, empty until Ctrl-C: so the step under way can end. A second Ctrl-C interrupts at once."""
    pressed: list[bool] = []

    def note(number: int, frame: object) -> None:
        pressed.append(True)
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, previous)


def _perplexity(loss: float) -> str:
    return f"{math.exp(min(loss, 700.0)):.2f}"


def _plot(path: str, training: Training, bigram: float) -> None:
    """Draw perplexity and gradient norm over the steps."""
    step, loss, norm, held_out = training.history.T
    figure = importlib.import_module("matplotlib.figure").Figure(figsize=(8, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    upper.plot(step, np.exp(loss), label="training text")
    upper.plot(step, np.exp(held_out), label="held-out text")
    upper.axhline(math.exp(bigram), color="grey", linestyle="--", label="bigram table, held-out text")
    upper.set(ylabel="perplexity")
    upper.legend()
    lower.plot(step, norm)
    lower.axhline(MAX_NORM, color="grey", linestyle="--")
    lower.set(ylabel="gradient norm", xlabel="step")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot draw {path}: {error}") from None
