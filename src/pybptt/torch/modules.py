"""The layers: torch.nn's own, but for what `forward` runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ..memory import memory_bytes, one_direction
from ..truncation import TBPTT, RandomTruncation, Truncation, check_truncation, checked_clip
from . import ops

DTYPES = (torch.float32, torch.float64)
SHORT = (torch.bfloat16, torch.float16)


class Recurrent(torch.nn.modules.rnn.RNNBase):
    """What the three have in common.

    They are not subclasses of torch.nn.RNN, LSTM and GRU: torch.compile refuses those, whatever they run.
    """

    def forward(
        self,
        input: Any,
        hx: Any = None,
        *,
        lengths: Any = None,
        truncation: Truncation | None = None,
        clip_hidden: tuple[str, float] | None = None,
        memory_limit: int | str | None = None,
    ) -> Any:
        """Runs the layers.

        Parameters
        ----------
        input, hx
            As for torch.nn's layers: (T, B, D), (B, T, D) with `batch_first`, (T, D), or a PackedSequence;
            h_0, or for an LSTM the pair (h_0, c_0).
        lengths : integers, (B,), optional
            Steps of each sequence of padded input, in [0, T] and in any order. What is beyond is not
            computed: outputs there are 0, the state returned is the one at each sequence's own end, and the
            reverse direction starts there.
        truncation : TBPTT, RandomTruncation or ARTBP, optional
            How far derivatives go back. Random truncation without a seed draws from PyTorch's generator.
        clip_hidden : ("norm", limit) or ("value", limit), optional
            Clipping of dL/dh_t inside the recurrence.
        memory_limit : int or str, optional
            Bytes, or text such as ``"256MB"``, that the tape and backward may take together.

        Returns
        -------
        output, h_n or (h_n, c_n)
            As of torch.nn's layers.

        Raises
        ------
        RuntimeError, ValueError, TypeError
            For wrong sizes, dtypes and options, as torch.nn's layers have them.
        NotImplementedError
            For another device, bfloat16 and float16, and transforms of torch.func.

        Examples
        --------
        >>> layer = pybptt.torch.GRU(3, 8)
        >>> output, h_n = layer(torch.ones(20, 2, 3), lengths=[20, 7], truncation=pybptt.TBPTT(5, 10))
        """
        options = (truncation, clip_hidden, memory_limit)
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx, lengths, options)
        if input.dim() not in (2, 3):
            raise ValueError(f"{self._name}: expected input to be 2-D or 3-D, got a {input.dim()}-D tensor")
        batched = input.dim() == 3
        input, states = self._checked(input, self._states(hx, batched))
        if not batched:
            input = input.unsqueeze(1)
        elif self.batch_first:
            input = input.transpose(0, 1)
        self._check_sizes(input, states, input.shape[1])
        output, states = self._run(input, states, self._lengths(lengths, input, batched), *options)
        if not batched:
            return output.squeeze(1), self._as_given([state.squeeze(1) for state in states])
        return output.transpose(0, 1) if self.batch_first else output, self._as_given(states)

    def _forward_packed(self, input: Any, hx: Any, lengths: Any, options: tuple[Any, ...]) -> Any:
        """The core reads a packed sequence as it is."""
        if lengths is not None:
            raise ValueError(f"{self._name}: expected no lengths beside a PackedSequence, which has them")
        data, batch_sizes, to_sorted, from_sorted = input
        data, states = self._checked(data, self._states(hx, True))
        batch = int(batch_sizes[0])
        self._check_sizes(data, states, batch)
        if to_sorted is not None:
            states = [state.index_select(1, to_sorted) for state in states]
        falling = (batch_sizes.unsqueeze(1) > torch.arange(batch)).sum(0)
        output, states = self._run(data, states, falling, *options)
        if from_sorted is not None:
            states = [state.index_select(1, from_sorted) for state in states]
        return PackedSequence(output, batch_sizes, to_sorted, from_sorted), self._as_given(states)

    @property
    def _weights(self) -> list[Tensor]:
        """As they are now: parametrizations and `torch.func.functional_call` put others in their place."""
        return [getattr(self, name) for name in self._flat_weights_names]

    @property
    def _name(self) -> str:
        return f"pybptt.torch.{type(self).__name__}"

    def _states(self, hx: Any, batched: bool) -> list[Tensor]:
        """h_0, and c_0 of an LSTM, of a batch; nothing for zeros."""
        if hx is None:
            return []
        pair = self.mode == "LSTM"
        states = list(hx) if isinstance(hx, (tuple, list)) and pair else [hx]
        if len(states) != (2 if pair else 1) or not all(isinstance(state, Tensor) for state in states):
            error = RuntimeError if len(states) > 2 else TypeError  # as torch.nn has it
            raise error(
                f"{self._name}: expected hx to be {'the pair (h_0, c_0)' if pair else 'a tensor'}, "
                f"got {[type(state).__name__ for state in states]}"
            )
        for state in states:
            if state.dim() != (3 if batched else 2):
                kind = "batched 3-D" if batched else "unbatched 2-D"
                raise RuntimeError(
                    f"{self._name}: for {kind} input, hx should also be {kind[-3:]}, "
                    f"got a {state.dim()}-D tensor"
                )
        return states if batched else [state.unsqueeze(1) for state in states]

    def _as_given(self, states: Sequence[Tensor]) -> Any:
        return tuple(states) if self.mode == "LSTM" else states[0]

    def _checked(self, input: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Devices, layouts and dtypes. Under autocast, what is short becomes as long as the parameters."""
        weights = dict(zip(self._flat_weights_names, self._weights, strict=True))
        for name, weight in weights.items():
            if weight is None:
                raise TypeError(f"{self._name}: expected {name} to be a tensor, got None")
        first = next(iter(weights.values()))
        dtype, device = first.dtype, first.device
        if torch.is_autocast_enabled("cpu"):
            input, *states = (t.to(dtype) if t.dtype in SHORT else t for t in (input, *states))
        if device.type not in ("cpu", "meta"):
            raise NotImplementedError(
                f"{self._name}: expected parameters on the CPU, got ones on {device}; "
                "use torch.nn's layer there (pybptt.torch.restore(model))"
            )
        if dtype not in DTYPES:
            raise NotImplementedError(
                f"{self._name}: expected parameters of float32 or float64, got {dtype}; "
                "convert with .float(), or use torch.nn's layer (pybptt.torch.restore(model))"
            )
        for name, tensor in (*weights.items(), ("input", input), *(("hx", state) for state in states)):
            if tensor.device != device:
                raise RuntimeError(
                    f"{self._name}: expected {name} on {device}, where the parameters are, "
                    f"got one on {tensor.device}"
                )
            if tensor.layout != torch.strided:
                raise RuntimeError(
                    f"{self._name}: expected {name} to be dense, got {tensor.layout}; "
                    "convert it with .to_dense()"
                )
            if tensor.dtype != dtype:
                error = ValueError if name == "input" else RuntimeError  # as torch.nn has it
                raise error(
                    f"{self._name}: {name} has dtype {tensor.dtype}, weight_ih_l0 has {dtype}; "
                    f"convert it with .to({dtype})"
                )
        return input, states

    def _check_sizes(self, x: Tensor, states: list[Tensor], batch: int) -> None:
        if x.shape[-1] != self.input_size:
            raise RuntimeError(
                f"{self._name}: expected input.size(-1) to be input_size = {self.input_size}, "
                f"got {x.shape[-1]}"
            )
        if x.shape[0] == 0:
            raise RuntimeError(
                f"{self._name}: expected a sequence of at least one step, got input {list(x.shape)}"
            )
        units = self.num_layers * (2 if self.bidirectional else 1)
        sizes = (self.proj_size or self.hidden_size, self.hidden_size)
        for name, state, size in zip(("h_0", "c_0"), states, sizes, strict=False):
            if state.shape != (units, batch, size):
                raise RuntimeError(
                    f"{self._name}: expected {name} of size {(units, batch, size)}, got {tuple(state.shape)}"
                )

    def _lengths(self, lengths: Any, x: Tensor, batched: bool) -> Tensor | None:
        """(B,); the core looks whether each is in [0, T]."""
        if lengths is None:
            return None
        if not batched:
            raise ValueError(f"{self._name}: expected no lengths for unbatched 2-D input")
        try:
            found = torch.as_tensor(lengths)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{self._name}: expected lengths of integers, got {lengths!r}") from error
        if found.dtype.is_floating_point or found.dtype.is_complex or found.dtype == torch.bool:
            raise TypeError(f"{self._name}: expected lengths of integers, got {found.dtype}")
        if found.shape != x.shape[1:2]:
            raise ValueError(
                f"{self._name}: expected lengths of size {tuple(x.shape[1:2])}, one for each sequence, "
                f"got {tuple(found.shape)}"
            )
        return found.to(device="cpu", dtype=torch.int64)

    def _mask(self, x: Tensor) -> Tensor | None:
        """What outputs are multiplied by before the next layer reads them, as torch.nn draws it."""
        if not self.training or self.dropout == 0 or self.num_layers == 1:
            return None
        width = (2 if self.bidirectional else 1) * (self.proj_size or self.hidden_size)
        layers = [x.new_zeros((*x.shape[:-1], width)) for _ in range(self.num_layers - 1)]
        keep = 1 - self.dropout
        if not keep:  # nothing is drawn
            return torch.stack(layers)
        return torch.stack([layer.bernoulli_(keep) for layer in layers]).div_(keep)

    def _run(
        self,
        x: Tensor,
        states: list[Tensor],
        lengths: Tensor | None,
        truncation: Truncation | None,
        clip_hidden: tuple[str, float] | None,
        memory_limit: int | str | None,
    ) -> tuple[Tensor, list[Tensor]]:
        directions = 2 if self.bidirectional else 1
        if memory_limit is not None:
            one_direction(self.bidirectional)
        if truncation is not None:
            check_truncation(truncation, directions)
        windows = (truncation.k1, truncation.k2) if isinstance(truncation, TBPTT) else (0, 0)
        factors = None
        if isinstance(truncation, RandomTruncation):
            factors = drawn(truncation, x, lengths)
        h_0, c_0 = (*states, None, None)[:2]
        limit = 0 if memory_limit is None else memory_bytes(memory_limit)
        output, h_n, c_n = ops.run(
            ops.Call(
                x, h_0, c_0, self._weights, lengths, self._mask(x), self.mode, self.num_layers,
                directions, self.bias, limit, factors, *windows, *checked_clip(clip_hidden),
            )
        )  # fmt: skip
        return output, [h_n, c_n] if self.mode == "LSTM" else [h_n]


def drawn(truncation: RandomTruncation, x: Tensor, lengths: Tensor | None) -> Tensor:
    """xi, (T, B): from its own seed, or from PyTorch's generator if it has none."""
    packed = lengths if x.dim() == 2 else None
    T, B = x.shape[:2] if packed is None else (int(packed[0]), len(packed))
    if truncation.seed is not None:
        factors = torch.from_numpy(truncation.factors(T, B)).to(x.dtype)
    else:
        pi = torch.tensor(truncation._column(T), dtype=x.dtype)
        factors = (torch.rand(T, B, dtype=x.dtype) < pi) / pi
    return factors if packed is None else factors[torch.arange(T).unsqueeze(1) < packed]


class RNN(Recurrent):
    """torch.nn.RNN, run by the core; a call takes what its `forward` says.

    Parameters
    ----------
    input_size, hidden_size, num_layers, ...
        As of torch.nn.RNN, in its order.

    Raises
    ------
    TypeError, ValueError
        As torch.nn.RNN does.

    Examples
    --------
    >>> layer = pybptt.torch.RNN(3, 8, num_layers=2)
    >>> output, h_n = layer(torch.ones(20, 4, 3))
    >>> output.sum().backward()
    >>> layer.weight_hh_l1.grad.shape
    torch.Size([8, 8])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        no_projection(kwargs)
        if len(args) > 3:
            self.nonlinearity = args[3]
            args = args[:3] + args[4:]
        else:
            self.nonlinearity = kwargs.pop("nonlinearity", "tanh")
        if self.nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity: expected 'tanh' or 'relu', got {self.nonlinearity!r}")
        super().__init__(f"RNN_{self.nonlinearity.upper()}", *args, **kwargs)


class LSTM(Recurrent):
    """torch.nn.LSTM, run by the core; a call takes what its `forward` says.

    Parameters
    ----------
    input_size, hidden_size, num_layers, ...
        As of torch.nn.LSTM, in its order.

    Raises
    ------
    TypeError, ValueError
        As torch.nn.LSTM does.

    Examples
    --------
    >>> layer = pybptt.torch.LSTM(3, 8, num_layers=2)
    >>> output, (h_n, c_n) = layer(torch.ones(20, 4, 3))
    >>> output.sum().backward()
    >>> layer.weight_hh_l1.grad.shape
    torch.Size([32, 8])
    """

    get_expected_cell_size = torch.nn.LSTM.get_expected_cell_size
    check_forward_args = torch.nn.LSTM.check_forward_args
    permute_hidden = torch.nn.LSTM.permute_hidden

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)


class GRU(Recurrent):
    """torch.nn.GRU, run by the core; a call takes what its `forward` says.

    Parameters
    ----------
    input_size, hidden_size, num_layers, ...
        As of torch.nn.GRU, in its order.

    Raises
    ------
    TypeError, ValueError
        As torch.nn.GRU does.

    Examples
    --------
    >>> layer = pybptt.torch.GRU(3, 8, num_layers=2)
    >>> output, h_n = layer(torch.ones(20, 4, 3))
    >>> output.sum().backward()
    >>> layer.weight_hh_l1.grad.shape
    torch.Size([24, 8])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        no_projection(kwargs)
        super().__init__("GRU", *args, **kwargs)


def no_projection(options: dict[str, Any]) -> None:
    """A ValueError, as torch.nn has it."""
    if "proj_size" in options:
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
