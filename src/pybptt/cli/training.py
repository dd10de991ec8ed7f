"""A training run of a character model: what defines it, its state, one step of it."""

from __future__ import annotations

import argparse
import math
import reprlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import SequenceModel, clip_by_norm, load
from ..data import Vocabulary
from ..layers import LAYERS
from ..optim import Adam, Cosine, WarmUp
from ..recurrent import RecurrentLayer
from .common import CommandError, layers, natural, non_negative, positive, probability, reading, whole
from .text import UNKNOWN, Corpus, read_text

__all__ = ["CHOICES", "NUMBERS", "Saved", "Settings", "Training", "load_run", "new_layer", "text_of"]

_Array = npt.NDArray[Any]

MAX_NORM = 1.0
WARM_UP = 0.05  # of the run
EVALUATION_WINDOW = 200  # characters in one call; the held-out loss doesn't depend on it

# What settings may be, on the command line and in a file.
CHOICES: dict[str, tuple[str, ...]] = {
    "cell": ("rnn", "lstm", "gru"),
    "nonlinearity": ("tanh", "relu", "sigmoid", "identity"),
    "dtype": ("float32", "float64"),
}
NUMBERS: dict[str, Callable[[str], float]] = {
    "layers": layers,
    "dropout": probability,
    "hidden": natural,
    "seed": whole,
    "batch": natural,
    "window": natural,
    "lr": positive,
    "steps": natural,
    "minutes": positive,
}


@dataclass(frozen=True)
class Settings:
    """What defines a run; the defaults are those of the command. `minutes` comes before `steps` if given."""

    text: str | None = None
    cell: str = "rnn"
    layers: int = 1
    dropout: float = 0.0
    hidden: int = 256
    nonlinearity: str = "tanh"
    dtype: str = "float32"
    seed: int = 1
    batch: int = 32
    window: int = 25
    lr: float | None = None
    steps: int = 10_000
    minutes: float | None = None

    def check(self) -> None:
        """A ValueError for what the command line would not take."""
        for name, value in asdict(self).items():
            if value is None and getattr(Settings, name) is None:
                continue
            if name in NUMBERS:
                good = _taken(NUMBERS[name], value)
            else:
                good = isinstance(value, str) and value in CHOICES.get(name, (value,))
            if not good:
                raise ValueError(f"{name} can't be {reprlib.repr(value)}")

    def rate(self, done: float) -> float:
        """Learning rate when `done` of 1 of the run is done: a warm-up, and half a cosine down to 0.

        The more units, the further one step of all their weights moves a pre-activation: hence the default,
        1 / hidden. Without the warm-up large networks saturate in the first steps, and stay so.
        """
        first = min(0.005, 1 / self.hidden) if self.lr is None else self.lr
        return WarmUp(Cosine(first, steps=1), steps=WARM_UP)(done)


class Training:
    """A run: the model, its optimiser, and where it is in the text.

    What it is after a step follows from what it was before, and from nothing else; `save` keeps all of that.

    Attributes
    ----------
    step : int
        Steps taken; it also tells the position in the text.
    seconds : float
        Time spent in steps and evaluations.
    state : ndarray, (layers, batch, hidden), or a pair of them for an LSTM
        The state that the next window starts from.
    recent : ndarray of float64, (3,)
        Sums since the last evaluation: of the losses, of the gradients' norms, of the steps.
    history : ndarray of float64, (evaluations, 4)
        Step, mean training loss and mean gradient norm since the evaluation before, held-out loss.
    """

    def __init__(self, settings: Settings, corpus: Corpus) -> None:
        self.settings = settings
        self.corpus = corpus
        self.windows = (len(corpus.train) - 1) // settings.window
        if self.windows == 0:
            raise CommandError(
                f"the text is too short for --batch {settings.batch} and --window {settings.window}: "
                f"its training part has {len(corpus.train) - 1} characters a stream"
            )
        symbols = len(corpus.vocabulary)
        self.model: SequenceModel[Any] = SequenceModel(
            new_layer(settings, symbols), symbols, seed=settings.seed + 1
        )
        self.optimiser = Adam(self.model.flat)
        self.state: Any = self._zero_state()
        self.step = 0
        self.seconds = 0.0
        self.recent = np.zeros(3)
        self.history = np.zeros((0, 4))

    def done(self) -> float:
        """How much of the run is done, from 0 to 1."""
        if self.settings.minutes is not None:
            return min(1.0, self.seconds / (60 * self.settings.minutes))
        return min(1.0, self.step / self.settings.steps)

    def speed(self) -> float:
        """Characters a second, from the run's beginning."""
        return self.step * self.settings.batch * self.settings.window / max(self.seconds, 1e-9)

    def advance(self) -> tuple[float, float]:
        """Take one step.

        Returns
        -------
        loss : float
            Mean cross-entropy of the window's targets.
        norm : float
            2-norm of the gradient before clipping.

        Raises
        ------
        CommandError
            If either isn't finite; the parameters are what they were then.
        """
        start = time.perf_counter()
        window = self.settings.window
        at = self.step % self.windows * window
        if at == 0:
            self.state = self._zero_state()
        ids = self.corpus.train[at : at + window + 1]
        loss, gradients, self.state = self.model.loss_and_grad(
            ids[:-1], ids[1:], self.state, seed=self.settings.seed * 1_000_003 + self.step
        )
        # Not linalg.norm: the bits of a BLAS sum depend on how many threads share it.
        norm = math.sqrt(np.square(gradients.flat).sum())
        if not math.isfinite(loss + norm):
            raise CommandError(
                f"the loss is {loss} and its gradient's norm {norm} at step {self.step}: try a lower --lr",
                code=1,
            )
        self.optimiser.lr = self.settings.rate(self.done())
        self.optimiser.step(clip_by_norm(gradients, MAX_NORM))
        self.step += 1
        self.recent += (loss, norm, 1)
        self.seconds += time.perf_counter() - start
        return loss, norm

    def held_out_loss(self) -> float:
        """Mean cross-entropy of the held-out text, each of its streams read from a state of zeros."""
        ids = self.corpus.held_out
        state, total = None, 0.0
        for at in range(0, len(ids) - 1, EVALUATION_WINDOW):
            part = ids[at : at + EVALUATION_WINDOW + 1]
            loss, state = self.model.loss(part[:-1], part[1:], state)
            total += loss * part[1:].size
        return total / ids[1:].size

    def evaluate(self) -> None:
        """Add a row to the history."""
        start = time.perf_counter()
        loss, norm = self.recent[:2] / self.recent[2]
        self.history = np.vstack([self.history, (self.step, loss, norm, self.held_out_loss())])
        self.recent[:] = 0
        self.seconds += time.perf_counter() - start

    def save(self, path: str) -> None:
        """Write everything that `restore` needs: the model, and the rest in its `extra`."""
        self.model.extra = {
            "settings": asdict(self.settings),
            "alphabet": "".join(self.corpus.vocabulary.symbols[1:]),
            "digest": self.corpus.digest,
            "step": self.step,
            "seconds": self.seconds,
            "optimiser": self.optimiser.state_dict(),
            "state": _by_name(self.state),
            "recent": self.recent,
            "history": self.history,
        }
        try:
            self.model.save(path)
        except OSError as error:
            raise CommandError(f"cannot write {path}: {error.strerror}", code=1) from None

    def restore(self, saved: Saved, path: str) -> None:
        """Take up what `save` wrote to `path`.

        Raises
        ------
        CommandError
            If the text is another one, or an array is missing or of another size.
        """
        if saved.digest != self.corpus.digest:
            source = self.settings.text or "the source of this Python's standard library"
            raise CommandError(
                f"{path} was trained on another text than {source}; give that text with --text"
            )
        extra = saved.model.extra
        try:
            self.model.flat = saved.model.flat
            for name, array in _by_name(self.state).items():
                _copy_into(array, extra["state"][name])
            _copy_into(self.recent, extra["recent"])
            history = np.zeros((len(extra["history"]), self.history.shape[1]))
            _copy_into(history, extra["history"])
            self.history = history
            optimiser = self.optimiser.state_dict()
            for name, array in optimiser.items():
                _copy_into(array, extra["optimiser"][name])
            self.optimiser.load_state_dict(optimiser)
            if self.recent[2] < 0 or (optimiser["v"] < 0).any():
                raise ValueError("a number of steps or a mean of squares is negative")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CommandError(f"{path} doesn't fit its own settings: {error}") from None
        self.step, self.seconds = saved.step, saved.seconds

    def _zero_state(self) -> Any:
        settings = self.settings
        shape = settings.layers, settings.batch, settings.hidden
        h, c = np.zeros(shape, settings.dtype), np.zeros(shape, settings.dtype)
        return (h, c) if settings.cell == "lstm" else h


class Saved(NamedTuple):
    """A run that `Training.save` wrote, checked but for the arrays in the model's `extra`."""

    settings: Settings
    vocabulary: Vocabulary
    digest: str
    step: int
    seconds: float
    model: SequenceModel[Any]


def load_run(path: str) -> Saved:
    """The run in the file.

    Raises
    ------
    CommandError
        If it can't be read, isn't a whole one, or has settings that can't be or aren't those of its model.
    """
    with reading(path):
        try:
            model = load(path)
        except ValueError as error:
            raise CommandError(str(error)) from None
    facts = model.extra
    try:
        settings = Settings(**facts["settings"])
    except (KeyError, TypeError):
        raise CommandError(f"{path} lacks the settings of its run: train --save has not written it") from None
    try:
        settings.check()
        alphabet, digest, step, seconds = (facts[name] for name in ("alphabet", "digest", "step", "seconds"))
        if not isinstance(alphabet, str):
            raise ValueError(f"alphabet can't be {reprlib.repr(alphabet)}")
        vocabulary = Vocabulary((UNKNOWN, *alphabet), UNKNOWN)
        if not (_taken(whole, step) and _taken(non_negative, seconds)):
            raise ValueError(f"step and seconds can't be {reprlib.repr((step, seconds))}")
        if not np.isfinite(model.flat).all():
            raise ValueError("parameters: expected finite ones")
        # Sizes first, of which the file has arrays: nothing is made of any others.
        layer, symbols = getattr(model, "layer", model), len(vocabulary)
        for name, value, found in (
            ("layers", settings.layers, layer.num_layers),
            ("hidden", settings.hidden, layer.hidden_size),
            ("batch", settings.batch, facts["state"]["h"].shape[1]),
            ("alphabet", symbols, layer.input_size),
        ):
            if value != found:
                raise ValueError(f"{name}: found {found} in place of {value}")
        wanted: SequenceModel[Any] = SequenceModel(new_layer(settings, symbols), symbols)
        if repr(model) != repr(wanted):
            raise ValueError(f"found {model!r} in place of {wanted!r}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CommandError(f"{path} doesn't fit its own settings: {error}") from None
    return Saved(settings, vocabulary, digest, step, seconds, model)


def _taken(option: Callable[[str], float], value: Any) -> bool:
    """Whether a number from a file is one that the option takes."""
    try:
        return isinstance(value, int | float) and option(str(value)) == value
    except (ValueError, argparse.ArgumentTypeError):
        return False


def text_of(settings: Settings, given: str | None, path: str | None = None) -> str:
    """The text of a run: a file `given` on the command line, or that of a saved run if it names none.

    Raises
    ------
    CommandError
        If it can't be read; and if it is the file at `path` alone that names it, which may be anyone's.
    """
    if path and not given and settings.text is not None:
        raise CommandError(f"{path} was trained on {settings.text!r}; to have that read, pass --text PATH")
    return read_text(given or settings.text)


def new_layer(settings: Settings, symbols: int) -> RecurrentLayer[Any]:
    """The recurrent layers that the settings describe."""
    options: dict[str, Any] = {
        "num_layers": settings.layers,
        "dropout": settings.dropout,
        "dtype": settings.dtype,
        "seed": settings.seed,
    }
    if settings.cell == "rnn":
        options["nonlinearity"] = settings.nonlinearity
    return LAYERS[settings.cell.upper()](symbols, settings.hidden, **options)


def _by_name(state: Any) -> dict[str, _Array]:
    return {"h": state[0], "c": state[1]} if isinstance(state, tuple) else {"h": state}


def _copy_into(target: _Array, source: _Array) -> None:
    if source.shape != target.shape or source.dtype != target.dtype:
        raise ValueError(f"found {source.dtype} {source.shape} in place of {target.dtype} {target.shape}")
    if not np.isfinite(source).all():
        raise ValueError("found a number that is not finite")
    target[...] = source
