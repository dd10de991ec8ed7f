"""PyTorch operators, ``pybptt::forward`` and ``pybptt::backward``, registered with `torch.library`.

What forward keeps for backward, its tape, is an object of the core. The operator returns a HANDLE of it: a
tensor whose memory the tape belongs to, so that whoever keeps the one (autograd, checkpointing, a compiled
graph) keeps the other, and nobody has to let it go. A copy of a handle is none: then backward runs the
forward pass again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from .. import _core
from ..memory import choose
from ..truncation import CLIPS, TBPTT, Limits, limits_of

# Cell and nonlinearity in the order of the core's enums, and gates, by PyTorch's names of the modes.
MODES = {"RNN_TANH": (0, 0, 1), "RNN_RELU": (0, 1, 1), "LSTM": (1, 0, 4), "GRU": (2, 0, 3)}

ARGUMENTS = (
    "Tensor x, Tensor? h_0, Tensor? c_0, Tensor[] parameters, Tensor? lengths, Tensor? mask, "
    "str mode, int layers, int directions, bool bias, int memory_limit, "
    "Tensor? factors, int k1, int k2, int clip, float clip_limit"
)
FORWARD = f"forward({ARGUMENTS}, bool keep) -> (Tensor output, Tensor h_n, Tensor c_n, Tensor tape)"
BACKWARD = (
    "backward(Tensor? d_output, Tensor? d_h, Tensor? d_c, Tensor tape, "
    f"{ARGUMENTS}, bool[] wanted) -> Tensor[]"
)


class Handle(np.ndarray[Any, Any]):
    """The memory of a handle. What is in it does not matter."""

    tape: _core.TapeFloat32


_handles: WeakValueDictionary[int, Handle] = WeakValueDictionary()  # by address


def handle_of(tape: _core.TapeFloat32) -> Tensor:
    """A handle of a tape."""
    handle = np.zeros(1, dtype=np.int64).view(Handle)
    handle.tape = tape
    tensor = torch.from_numpy(handle)
    _handles[tensor.data_ptr()] = handle
    return tensor


def tape_of(tensor: Tensor) -> _core.TapeFloat32 | None:
    """The tape of a handle; None for a copy of one."""
    handle = _handles.get(tensor.data_ptr())
    return None if handle is None else handle.tape


class Call(NamedTuple):
    """What both operators are told: checked, but not yet contiguous.

    The data of a packed sequence are (N, D): then arrays (T, B, ..) have N rows in the place of T B.
    """

    x: Tensor  # (T, B, D)
    h_0: Tensor | None  # (L K, B, P)
    c_0: Tensor | None  # (L K, B, H)
    parameters: Sequence[Tensor]  # of each recurrence, in PyTorch's order
    lengths: Tensor | None  # (B,)
    mask: Tensor | None  # (L - 1, T, B, K P)
    mode: str
    layers: int
    directions: int
    bias: bool
    memory_limit: int  # 0: none
    factors: Tensor | None  # (T, B)
    k1: int
    k2: int  # 0: no windows
    clip: int
    clip_limit: float

    @property
    def rows(self) -> tuple[int, ...]:
        """(T, B), or (N,)."""
        return self.x.shape[:-1]

    @property
    def batch(self) -> int:
        """B."""
        return self.x.shape[1] if self.lengths is None else self.lengths.shape[0]

    @property
    def steps(self) -> int:
        """T."""
        return self.x.shape[0] if self.lengths is None or self.x.dim() == 3 else int(self.lengths[0])

    @property
    def units(self) -> int:
        """L K."""
        return self.layers * self.directions

    @property
    def state_size(self) -> int:
        """P."""
        return self.parameters[1].shape[1]

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.parameters[0].shape[0] // MODES[self.mode][2]

    @property
    def config(self) -> _core.LayerConfig:
        """What the core knows of the network."""
        return config_of(
            self.mode,
            self.x.shape[-1],
            self.hidden_size,
            self.state_size,
            self.layers,
            self.directions,
            self.bias,
        )

    @property
    def core(self) -> Any:
        """The core's functions for this dtype."""
        return _core.tensors_float32 if self.x.dtype == torch.float32 else _core.tensors_float64

    def results(self) -> tuple[Tensor, Tensor, Tensor]:
        """Room for output, h_n, and c_n, which is empty for a cell without cell state."""
        B, P = self.batch, self.state_size
        return (
            self.x.new_empty((*self.rows, self.directions * P)),
            self.x.new_empty((self.units, B, P)),
            self.x.new_empty((self.units, B, self.hidden_size) if self.mode == "LSTM" else 0),
        )

    def gradients(self, wanted: Sequence[bool]) -> list[Tensor | None]:
        """Room for those by x, h_0, c_0 and each parameter that are wanted; None for the others."""
        return [
            torch.empty_like(of, memory_format=torch.contiguous_format) if of is not None and want else None
            for of, want in zip((self.x, self.h_0, self.c_0, *self.parameters), wanted, strict=True)
        ]

    def check(self) -> None:
        """A RuntimeError for a tensor of another size or dtype: the core knows addresses alone."""
        B, H = self.batch, self.hidden_size
        projected = len(self.parameters) > (4 if self.bias else 2) * self.units
        P = self.state_size if projected else H
        sizes = {
            "h_0": (self.units, B, P),
            "c_0": (self.units, B, H),
            "mask": (self.layers - 1, *self.rows, self.directions * P),
            **parameter_sizes(
                self.x.shape[-1], H, P, self.layers, self.directions, self.bias, MODES[self.mode][2]
            ),
        }
        tensors = (self.h_0, self.c_0, self.mask, *self.parameters)
        for (name, size), tensor in zip(sizes.items(), tensors, strict=True):
            if tensor is not None and (tensor.shape != size or tensor.dtype != self.x.dtype):
                raise RuntimeError(
                    f"pybptt.torch: expected {name} of size {size} and {self.x.dtype}, "
                    f"got {tuple(tensor.shape)} and {tensor.dtype}"
                )

    def run_core(self, results: Sequence[Tensor | None], keep: bool) -> _core.TapeFloat32 | None:
        """Writes those of the results that there is room for, and returns the tape if it is to be kept."""
        self.check()
        # Copies, if there are any, must outlive the call.
        lengths, mask, *inputs = map(contiguous, (self.lengths, self.mask, self.x, self.h_0, self.c_0))
        parameters = [parameter.contiguous() for parameter in self.parameters]
        packed_rows = self.x.shape[0] if self.x.dim() == 2 else 0
        sizes = self.config, self.steps, self.batch, packed_rows, address(lengths)
        plan = None
        if self.memory_limit and keep:
            beside = 0 if mask is None else mask.nbytes
            plan = choose(lambda limit: self.core.plan(*sizes, True, limit), self.memory_limit, beside)
        return self.core.forward(
            *sizes, *map(address, inputs), list(map(address, parameters)), address(mask),
            *map(address, results), keep, plan, torch.get_num_threads(),
        )  # fmt: skip

    def limits(self) -> Limits:
        """How far derivatives go back."""
        if not self.k2:
            factors = None if self.factors is None else self.factors.numpy()
            return Limits(factors, clip=self.clip, clip_limit=self.clip_limit)
        lengths = None if self.lengths is None else self.lengths.numpy()
        dtype = np.dtype(str(self.x.dtype).partition(".")[2])
        clip = (CLIPS[self.clip - 1], self.clip_limit) if self.clip else None
        limits = limits_of(
            TBPTT(self.k1, self.k2), clip, self.steps, lengths, self.batch, dtype, self.directions
        )
        if self.x.dim() == 3 or lengths is None:
            return limits
        own = np.arange(self.steps)[:, None] < lengths  # a packed sequence's rows
        factors, counted = (None if a is None else a[own] for a in (limits.factors, limits.counted))
        return limits._replace(factors=factors, counted=counted)


@lru_cache(maxsize=256)
def config_of(
    mode: str, D: int, H: int, P: int, layers: int, directions: int, bias: bool
) -> _core.LayerConfig:
    """Made once for all calls of a network."""
    cell, nonlinearity, _ = MODES[mode]
    return _core.LayerConfig(
        D, H, layers, directions, bias, cell, nonlinearity=nonlinearity, proj_size=0 if P == H else P
    )


@lru_cache(maxsize=256)
def parameter_sizes(
    D: int, H: int, P: int, layers: int, directions: int, bias: bool, gates: int
) -> dict[str, tuple[int, ...]]:
    """By PyTorch's names, in its order."""
    rows = gates * H
    sizes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        for suffix in ("", "_reverse")[:directions]:
            end = f"_l{layer}{suffix}"
            sizes["weight_ih" + end] = (rows, D if layer == 0 else directions * P)
            sizes["weight_hh" + end] = (rows, P)
            if bias:
                sizes["bias_ih" + end] = sizes["bias_hh" + end] = (rows,)
            if P != H:
                sizes["weight_hr" + end] = (P, H)
    return sizes


def address(tensor: Tensor | None) -> int:
    """Where the core finds it; 0 for none."""
    return 0 if tensor is None else tensor.data_ptr()


def contiguous(tensor: Tensor | None) -> Tensor | None:
    """As the core reads it: a copy if it is anything else."""
    return None if tensor is None else tensor.contiguous()


def forward(*arguments: Any) -> tuple[Tensor, ...]:
    """``pybptt::forward`` on the CPU."""
    *given, keep = arguments
    call = Call(*given)
    results = call.results()
    tape = call.run_core(results, keep)
    return *results, torch.empty(0, dtype=torch.int64) if tape is None else handle_of(tape)


def fake_forward(*arguments: Any) -> tuple[Tensor, ...]:
    """The shapes alone."""
    *given, keep = arguments
    call = Call(*given)
    return *call.results(), call.x.new_empty(int(keep), dtype=torch.int64)


def backward(
    d_output: Tensor | None, d_h: Tensor | None, d_c: Tensor | None, handle: Tensor, *arguments: Any
) -> list[Tensor]:
    """``pybptt::backward`` on the CPU: the wanted gradients, by x, h_0, c_0 and each parameter."""
    *given, wanted = arguments
    call = Call(*given)
    tape = tape_of(handle) or call.run_core((None, None, None), True)
    limits = call.limits()
    if limits.counted is not None and d_output is not None:
        d_output = d_output * torch.tensor(limits.counted).unsqueeze(-1)
    gradients = call.gradients(wanted)
    upstream = [contiguous(tensor) for tensor in (call.mask, d_output, d_h, d_c)]
    x, h_0, c_0, *parameters = map(address, gradients)
    call.core.backward(
        tape, call.config, *map(address, upstream), parameters, x, h_0, c_0, limits, torch.get_num_threads()
    )
    return [gradient for gradient in gradients if gradient is not None]


def fake_backward(d_output: Any, d_h: Any, d_c: Any, handle: Any, *arguments: Any) -> list[Tensor]:
    """The shapes alone."""
    *given, wanted = arguments
    return [gradient for gradient in Call(*given).gradients(wanted) if gradient is not None]


def keep_for_derivative(ctx: Any, call: Call, handle: Tensor) -> None:
    """What the derivative needs of a call."""
    ctx.save_for_backward(
        handle, call.x, call.h_0, call.c_0, call.lengths, call.mask, call.factors, *call.parameters
    )
    ctx.options = call[6:11], call[12:]  # all that is no tensor
    ctx.set_materialize_grads(False)


def derivative(ctx: Any, wanted: Sequence[bool], *upstream: Tensor | None) -> list[Tensor | None]:
    """By x, h_0, c_0 and each parameter."""
    handle, x, h_0, c_0, lengths, mask, factors, *parameters = ctx.saved_tensors
    network, limits = ctx.options
    call = (x, h_0, c_0, parameters, lengths, mask, *network, factors, *limits)
    found = iter(torch.ops.pybptt.backward(*upstream, handle, *call, wanted))
    return [next(found) if want else None for want in wanted]


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """For `torch.library`."""
    keep_for_derivative(ctx, Call(*inputs[:-1]), output[3])


def registered_derivative(ctx: Any, *upstream: Any) -> Any:
    """For `torch.library`, which has the parameters' gradients as a list."""
    by_x, by_h_0, by_c_0, by_parameters, *rest = ctx.needs_input_grad
    dx, dh_0, dc_0, *d_parameters = derivative(ctx, [by_x, by_h_0, by_c_0, *by_parameters], *upstream[:3])
    return dx, dh_0, dc_0, d_parameters, *(None for _ in rest)


class Recurrence(torch.autograd.Function):
    """The same for programs that run as they are written: of lists, torch.library takes 0.2 ms."""

    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Any) -> Any:
        """`tensors` are those of the call that may have a derivative."""
        with torch._C._AutoDispatchBelowAutograd():
            results = torch.ops.pybptt.forward.default(*call, True)
        keep_for_derivative(ctx, call, results[3])
        return results

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        wanted = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():  # create_graph=True, which the operator's own derivative refuses
            return None, *derivative(ctx, wanted, *upstream[:3])
        with torch._C._AutoDispatchBelowAutograd():
            return None, *derivative(ctx, wanted, *upstream[:3])


def run(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """Output, h_n and c_n of a call, whose derivative can be taken if anything asks for it."""
    tensors = (call.x, call.h_0, call.c_0, *call.parameters)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    if torch._C._are_functorch_transforms_active():
        raise NotImplementedError(
            "pybptt.torch: torch.func's transforms (grad, vmap, jvp) are not implemented; "
            "pybptt.torch.restore(model) puts torch.nn's layers back, which have them"
        )
    if keep and not torch.compiler.is_compiling():
        output, h_n, c_n, _ = Recurrence.apply(call, *tensors)
    else:
        output, h_n, c_n, _ = torch.ops.pybptt.forward(*call, keep)
    return output, h_n, c_n


def no_second_derivative(ctx: Any, *gradients: Any) -> Any:
    """Of ``pybptt::backward``."""
    raise NotImplementedError(
        "pybptt.torch: the derivative of a gradient (create_graph=True) is not implemented; "
        "pybptt.torch.restore(model) puts torch.nn's layers back, which have it"
    )


def no_batches(*arguments: Any) -> Any:
    """``pybptt::backward`` under autograd's own vmap."""
    raise NotImplementedError(
        "pybptt.torch: many upstreams at once (is_grads_batched=True, vectorize=True) are not implemented; "
        "take one after the other; pybptt.torch.restore(model) puts torch.nn's layers back, which have them"
    )


library = torch.library.Library("pybptt", "DEF")
library.define(FORWARD)
library.define(BACKWARD)
library.impl("forward", forward, "CPU")
library.impl("backward", backward, "CPU")
torch.library.register_fake("pybptt::forward", fake_forward, lib=library)
torch.library.register_fake("pybptt::backward", fake_backward, lib=library)
torch.library.register_autograd(
    "pybptt::forward", registered_derivative, setup_context=setup_context, lib=library
)
library.impl("backward", no_batches, "Batched")
torch.library.register_autograd("pybptt::backward", no_second_derivative, lib=library)
