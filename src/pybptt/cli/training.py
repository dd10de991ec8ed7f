"""A training run of a character model: what defines it, its state, one step of it."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import GRU, LSTM, RNN, SequenceModel, clip_by_norm
from ..optim import Adam
from . import checkpoint
from .common import CommandError
from .text import Corpus

__all__ = ["Settings", "Training", "new_layer"]

_Array = npt.NDArray[Any]

MAX_NORM = 1.0
WARM_UP = 0.05  # of the run
EVALUATION_WINDOW = 200  # characters in one call; the held-out loss doesn't depend on it


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

    def rate(self, done: float) -> float:
        """Learning rate when `done` of 1 of the run is done: a warm-up, and half a cosine down to 0.

        The more units, the further one step of all their weights moves a pre-activation: hence the default,
        1 / hidden. Without the warm-up large networks saturate in the first steps, and stay so.
        """
        first = min(0.005, 1 / self.hidden) if self.lr is None else self.lr
        return first * min(1, 0.1 + done / WARM_UP) * 0.5 * (1 + math.cos(math.pi * done))


class Training:
    """A run: the model, its optimiser, and where it is in the text.

    What it is after a step follows from what it was before, and from nothing else; `save` keeps all of that.

    Attributes
    ----------
    step : int
        Steps taken; it also tells the position in the text.
    seconds : float
        Time spent in steps, evaluations not counted.
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
        symbols = len(corpus.alphabet)
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
        self.optimiser.step(clip_by_norm(gradients.flat, MAX_NORM))
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
        loss, norm = self.recent[:2] / self.recent[2]
        self.history = np.vstack([self.history, (self.step, loss, norm, self.held_out_loss())])
        self.recent[:] = 0

    def save(self, path: str) -> None:
        """Write everything that `restore` needs, the parameters by their names."""
        optimiser = {f"optimiser.{name}": array for name, array in self.optimiser.state_dict().items()}
        own = {"recent": self.recent, "history": self.history}
        own |= _by_name(self.state)
        facts = {
            "settings": asdict(self.settings),
            "alphabet": self.corpus.alphabet.characters,
            "digest": self.corpus.digest,
            "step": self.step,
            "seconds": self.seconds,
        }
        checkpoint.save(path, {**self.model.parameters, **optimiser, **own}, facts)

    def restore(self, arrays: dict[str, _Array], facts: dict[str, Any], path: str) -> None:
        """Take up what `save` wrote to `path`.

        Raises
        ------
        CommandError
            If the text is another one, or an array is missing or of another size.
        """
        if facts.get("digest") != self.corpus.digest:
            source = self.settings.text or "the source of this Python's standard library"
            raise CommandError(
                f"{path} was trained on another text than {source}; give that text with --text"
            )
        try:
            for name, parameter in self.model.parameters.items():
                _copy_into(parameter, arrays[name])
            for name, array in _by_name(self.state).items():
                _copy_into(array, arrays[name])
            _copy_into(self.recent, arrays["recent"])
            self.history = arrays["history"].reshape(-1, self.history.shape[1])
            self.optimiser.load_state_dict({name.removeprefix("optimiser."): arrays[name] for name in arrays})
            self.step, self.seconds = int(facts["step"]), float(facts["seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise CommandError(f"{path} doesn't fit its own settings: {error}") from None

    def _zero_state(self) -> Any:
        settings = self.settings
        shape = settings.layers, settings.batch, settings.hidden
        h, c = np.zeros(shape, settings.dtype), np.zeros(shape, settings.dtype)
        return (h, c) if settings.cell == "lstm" else h


def new_layer(settings: Settings, symbols: int) -> RNN | LSTM | GRU:
    """The recurrent layers that the settings describe."""
    options: dict[str, Any] = {
        "num_layers": settings.layers,
        "dropout": settings.dropout,
        "dtype": settings.dtype,
        "seed": settings.seed,
    }
    if settings.cell == "lstm":
        return LSTM(symbols, settings.hidden, **options)
    if settings.cell == "gru":
        return GRU(symbols, settings.hidden, **options)
    return RNN(symbols, settings.hidden, nonlinearity=settings.nonlinearity, **options)


def _by_name(state: Any) -> dict[str, _Array]:
    return {"state": state[0], "state.c": state[1]} if isinstance(state, tuple) else {"state": state}


def _copy_into(target: _Array, source: _Array) -> None:
    if source.shape != target.shape or source.dtype != target.dtype:
        raise ValueError(f"found {source.dtype} {source.shape} in place of {target.dtype} {target.shape}")
    target[...] = source
