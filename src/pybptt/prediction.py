"""What a model is used for once it is trained: outputs, probabilities, accuracy, sequences of its own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from . import _core
from ._arrays import (
    Array,
    at_least,
    expect,
    generator,
    ids,
    is_array,
    number,
    plain,
    sequence_lengths,
    to_integers,
)
from .call import Call
from .gradients import State
from .packed import Network, Packed

if TYPE_CHECKING:
    from .recurrent import RecurrentLayer

NOISE = 1 << 16  # numbers that `generate` draws at a time
HOTTEST = 1e300  # of temperatures: as good as any above, and times the noise still finite


class Predictor(Network[State]):
    """The part of `pybptt.SequenceModel` that needs no gradients."""

    layer: RecurrentLayer[State]
    output_size: int
    loss_name: str
    reduction: str
    last_only: bool
    _network: _core.ModelFloat32

    def __call__(
        self, x: Array, state: State | None = None, *, lengths: ArrayLike | None = None
    ) -> tuple[Array, State]:
        """Runs the model and keeps nothing.

        Parameters
        ----------
        x, state, lengths
            As for calling the layer.

        Returns
        -------
        output : ndarray, (T, B, Q), or (B, Q) with `last_only`
            o_t: predictions, or logits (softmax has not been applied); 0 past a sequence's end.
        state : ndarray, (L K, B, H), or a pair of them for an LSTM
            The final state.

        Raises
        ------
        ValueError, TypeError, IndexError, MemoryError
            As for calling the layer; ValueError also for T = 0 with `last_only`.

        Examples
        --------
        >>> model = pybptt.SequenceModel(pybptt.GRU(3, 8, seed=0), 5, seed=1)
        >>> logits, state = model(np.array([[0], [2], [1]]))
        >>> logits.shape
        (3, 1, 5)
        """
        return self._run(x, state, lengths, None)

    def _infer(self, call: Call, packed: _core.PackedFloat32 | None) -> tuple[Array, State]:
        """Output and final state of checked arguments; None for the parameters as they are now."""
        output, final_state = self._network.infer(call.x, call.state, call.options(), packed)
        if self.layer.batch_first and not self.last_only:
            output = output.swapaxes(0, 1)
        return output, final_state

    def packed(self, *, tokens: bool = True) -> Packed[State]:
        """A handle that predicts with weights packed once, for many short calls.

        Parameters
        ----------
        tokens : bool
            Whether its input is token ids: there is a row for each of the D.

        Returns
        -------
        Packed
            To be called as the model is. In a ``with`` it lets the weights go at the end.

        Raises
        ------
        TypeError, MemoryError
            For `tokens` of another type, and weights that can't be allocated.

        Examples
        --------
        >>> model = pybptt.SequenceModel(pybptt.GRU(5, 8, seed=0), 5, seed=1)
        >>> token, state = np.array([[0]]), None
        >>> with model.packed() as run:
        ...     for _ in range(10):
        ...         logits, state = run(token, state)
        ...         token = logits.argmax(axis=-1)
        """
        return Packed(self, tokens)

    def predict_proba(
        self, x: Array, state: State | None = None, *, lengths: ArrayLike | None = None
    ) -> tuple[Array, State]:
        """The probabilities of the classes: softmax of what calling the model gives.

        Parameters
        ----------
        x, state, lengths
            As for calling the model.

        Returns
        -------
        probabilities : ndarray, (T, B, Q), or (B, Q) with `last_only`
            p_t = softmax(o_t), which sums to 1 over the classes; 0 past a sequence's end.
        state : ndarray, (L K, B, H), or a pair of them for an LSTM
            The final state.

        Raises
        ------
        ValueError, TypeError, IndexError, MemoryError
            As for calling the model; ValueError also for a loss that is not cross-entropy.

        Examples
        --------
        >>> model = pybptt.SequenceModel(pybptt.GRU(3, 8, seed=0), 5, last_only=True, seed=1)
        >>> p, state = model.predict_proba(np.array([[0, 1], [2, 2]]))
        >>> p.shape, np.allclose(p.sum(axis=-1), 1)
        ((2, 5), True)
        """
        self._expect_classes()
        call = self._call(x, state, lengths)
        output, final_state = self._infer(call, None)
        # softmax(o) = softmax(o - max o), none of whose exponentials is infinite
        output -= output.max(axis=-1, keepdims=True)
        np.exp(output, out=output)
        output /= output.sum(axis=-1, keepdims=True)
        if call.lengths is not None and not self.last_only:
            past = np.arange(call.steps)[:, None] >= call.lengths
            output[past.T if self.layer.batch_first else past] = 0
        return output, final_state

    def accuracy(
        self, x: Array, y: Array, state: State | None = None, *, lengths: ArrayLike | None = None
    ) -> tuple[float, State]:
        """The share of targets that are the likeliest class.

        Parameters
        ----------
        x, y, state, lengths
            As for `loss`.

        Returns
        -------
        accuracy : float
            In [0, 1], of the targets before each sequence's end; 0 if there are none. Of equally likely
            classes the first counts.
        state : ndarray, (L K, B, H), or a pair of them for an LSTM
            The final state.

        Raises
        ------
        ValueError, TypeError, IndexError, MemoryError
            As for `loss`; ValueError also for a loss that is not cross-entropy.

        Examples
        --------
        >>> model = pybptt.SequenceModel(pybptt.RNN(3, 8, seed=0), 3, seed=1)
        >>> tokens = np.array([[0, 1], [2, 0], [1, 1], [0, 2]])
        >>> accuracy, state = model.accuracy(tokens[:-1], tokens[1:])
        >>> 0 <= accuracy <= 1
        True
        """
        self._expect_classes()
        call = self._call(x, state, lengths)
        targets, _ = self._targets(y, call)
        output, final_state = self._infer(call, None)
        likeliest = output.argmax(axis=-1)
        if self.layer.batch_first and not self.last_only:
            likeliest = likeliest.swapaxes(0, 1)
        counted = np.ones(targets.shape, bool)
        if call.lengths is not None and not self.last_only:
            counted = np.arange(call.steps)[:, None] < call.lengths
        wrong = np.argwhere(counted & ((targets < 0) | (targets >= self.output_size)))
        if wrong.size:  # of (B, T) targets it has been found before
            place = ", ".join(map(str, wrong[0]))
            found = targets[tuple(wrong[0])]
            raise IndexError(f"y: expected ids in [0, {self.output_size}), got {found} at [{place}]")
        right = (likeliest == targets)[counted]
        return float(right.mean()) if right.size else 0.0, final_state

    def generate(
        self,
        prompt: Array,
        steps: int,
        *,
        temperature: float = 1.0,
        seed: int | None = None,
        lengths: ArrayLike | None = None,
        suppress_tokens: ArrayLike | None = None,
    ) -> Array:
        """Goes on with a sequence of tokens: each step's draw is the next step's input.

        The prompt is read from a state of zeros, in one call; then every step is one, with weights that have
        been packed once (`packed`).

        Parameters
        ----------
        prompt : ndarray of integers, (T,) or (T, B), or (B, T) with ``batch_first``
            Token ids in [0, D), of one sequence or of several, of at least one step.
        steps : int
            N: how many tokens to write.
        temperature : float
            tau: tokens are drawn from softmax(o_t / tau). 1 is as likely as the model finds it, less is more
            predictable, and 0 always takes the likeliest token (of equally likely ones the first).
        seed : int, optional
            The same seed writes the same tokens, for the same model, prompt and B.
        lengths : integers, (B,), each in [1, T], optional
            Where each prompt ends; all have T steps if not given.
        suppress_tokens : integers, optional
            Ids in [0, Q) that are never written, such as that of an unknown character.

        Returns
        -------
        ndarray of int64, (N,) or (N, B), or (B, N) with ``batch_first``
            The tokens written; the prompt is not repeated.

        Raises
        ------
        ValueError, TypeError, IndexError, MemoryError
            For a prompt that is no token ids or has no step; for `steps` or a temperature below 0, and one
            that is not finite; for ids to suppress that are out of range, or all of them; for a model that
            can't go on by itself: one whose loss is not cross-entropy or whose classes are not its input
            tokens (Q = D), or a bidirectional one; and for a model whose outputs are not finite.

        Examples
        --------
        >>> model = pybptt.SequenceModel(pybptt.RNN(3, 8, seed=0), 3, seed=1)
        >>> tokens = np.tile([[0], [1], [2], [1]], (500, 4))
        >>> for step in model.stream(tokens[:-1], tokens[1:], truncation=pybptt.TBPTT(20, 20)):
        ...     model.flat -= 0.5 * pybptt.clip_by_norm(step.gradients.flat, 1.0)
        >>> model.generate(np.array([0, 1]), 6, temperature=0)
        array([2, 1, 0, 1, 2, 1])
        """
        self._expect_classes()
        Q = self.output_size
        if self.layer.input_size != Q:
            raise ValueError(
                f"generate: expected a model whose outputs are its input tokens, got output_size={Q} "
                f"and input_size={self.layer.input_size}"
            )
        if self.layer.bidirectional:
            raise ValueError("generate: expected a layer of one direction, got a bidirectional one")
        steps = at_least("steps", steps, 0)
        temperature = number("temperature", temperature, "a number of at least 0")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature: expected a finite number of at least 0, got {temperature}")
        temperature = min(temperature, HOTTEST)
        random = generator(seed)
        suppressed = self._suppressed(suppress_tokens)
        if is_array("prompt", prompt, "integers").dtype.kind not in "iu":
            raise TypeError(f"prompt: expected integer token ids, got {prompt.dtype}")
        if prompt.ndim not in (1, 2):
            raise ValueError(f"prompt: expected one or two axes, (T,) or (T, B), got shape {prompt.shape}")
        batch_first = self.layer.batch_first
        rows = prompt[None] if prompt.ndim == 1 else prompt if batch_first else prompt.T  # (B, T)
        B, T = rows.shape
        if T == 0:
            raise ValueError(f"prompt: expected at least one step, got shape {prompt.shape}")
        ends = sequence_lengths(lengths, T, B)
        if ends is not None and (ends == 0).any():
            raise ValueError(f"lengths: expected at least 1, got 0 at [{int(ends.argmin())}]")
        x = ids("prompt", rows, Q, time_axis=1, lengths=ends)

        written, largest = np.empty((steps, B), np.int64), np.empty((steps, B))
        some, each = max(1, NOISE // max(1, B * Q)), np.arange(B)
        with self.packed() as run, np.errstate(invalid="ignore"):  # of outputs that are refused
            output, state = run(x.T if batch_first else x, lengths=ends)
            if not self.last_only:
                output = output.swapaxes(0, 1) if batch_first else output
                output = output[-1] if ends is None else output[ends - 1, each]
            for n in range(steps):
                if n % some == 0:
                    noise = _noise(random, temperature, (min(some, steps - n), B, Q)) - suppressed
                o = output.reshape(B, Q) + noise[n % some]
                written[n] = likeliest = o.argmax(axis=-1)  # or a NaN, if there is one
                largest[n] = o[each, likeliest]
                if n + 1 < steps:
                    token = written[n : n + 1]
                    output, state = run(token.T if batch_first else token, state)
        if not np.isfinite(largest).all():
            raise ValueError(
                "generate: expected a model whose outputs are finite, got one of NaN or infinity"
            )
        written = written.T if batch_first else written
        return written.reshape(steps) if prompt.ndim == 1 else written

    def _suppressed(self, tokens: ArrayLike | None) -> Array:
        """What is subtracted from the outputs, (Q,): infinity of those that are never written, else 0."""
        suppressed = np.zeros(self.output_size)
        if tokens is not None:
            given = np.asarray(tokens)
            if given.dtype.kind not in "iu" and given.size:
                raise TypeError(f"suppress_tokens: expected integers, got {given.dtype}")
            if ((given < 0) | (given >= self.output_size)).any():
                raise ValueError(f"suppress_tokens: expected ids in [0, {self.output_size}), got {given}")
            suppressed[given.astype(np.int64)] = np.inf
            if suppressed.all():
                raise ValueError("suppress_tokens: expected some token to be left, got all of them")
        return suppressed

    def _expect_classes(self) -> None:
        if self.loss_name != "cross_entropy":
            raise ValueError(f"loss: expected a model with loss='cross_entropy', got {self.loss_name!r}")

    def _call(
        self,
        x: Any,
        state: State | None,
        lengths: ArrayLike | None,
        training: bool = False,
        seed: int | None = None,
        dropout_mask: Array | None = None,
    ) -> Call:
        call = self.layer._call(x, state, lengths, training, seed, dropout_mask)
        if self.last_only and call.steps == 0:
            raise ValueError(
                "x: expected at least one step, because last_only counts the last one; got T = 0"
            )
        return call

    def _targets(self, y: Any, call: Call) -> tuple[Array, float]:
        """Targets, time-major and C-contiguous, and the factor of the loss's reduction."""
        swap = self.layer.batch_first and not self.last_only
        steps, batch = call.steps, call.batch
        counted = steps * batch if call.lengths is None else int(call.lengths.sum())
        count = batch if self.last_only else counted
        self._check_targets("y", y, steps, batch)
        if self.loss_name == "mse":
            y = plain(y.swapaxes(0, 1) if swap else y)
            count *= self.output_size
        else:
            lengths = None if self.last_only else call.lengths
            y = ids("y", y, self.output_size, time_axis=1 if swap else 0, lengths=lengths)
        return y, 1.0 if self.reduction == "sum" else 1.0 / max(1, count)

    def _check_targets(self, name: str, y: Any, steps: int, batch: int) -> None:
        """Type, dtype and shape of targets."""
        shape: tuple[int, ...] = (batch,) if self.last_only else (steps, batch)
        if self.layer.batch_first and not self.last_only:
            shape = (batch, steps)
        if self.loss_name == "mse":
            expect(name, y, (*shape, self.output_size), self.dtype)
            return
        y = is_array(name, y, "integers")
        if y.shape == (*shape, self.output_size) and y.dtype.kind in "biuf":
            raise ValueError(
                f"{name}: expected integer class ids of shape {shape}, got {y.dtype} of shape {y.shape}; "
                f"if it is one-hot, convert with {name.split()[0]}.argmax(axis=-1)"
            )
        if y.dtype.kind not in "iu":
            raise TypeError(
                f"{name}: expected integer class ids, got {y.dtype}; {to_integers(name, y.dtype)}"
            )
        if y.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {y.shape}")


def _noise(random: np.random.Generator, temperature: float, shape: tuple[int, ...]) -> Array:
    """tau times Gumbel noise: the largest of o and it together is a draw from softmax(o / tau).

    Gumbel noise is minus the logarithm of exponential variables, in half the time of ``random.gumbel``.
    """
    if temperature == 0:
        return np.zeros(shape)
    noise: Array = -temperature * np.log(random.standard_exponential(shape))
    return noise
