from typing import Any, TypeAlias, overload

from numpy.typing import NDArray

_Array: TypeAlias = NDArray[Any]
# lengths, mask, whether all c_t are asked for, memory plan, progress. Without options arrays are as the user
# gave them, and a call returns None if it does not read them as they are; so does `backward`.
_Options: TypeAlias = tuple[Any, ...]
# factors, windows, clip, clip_limit, counted
_Limits: TypeAlias = tuple[_Array | None, tuple[int, int], int, float, _Array | None]
# by the parameters, by the input, by the state, by every h_t
_Gradients: TypeAlias = tuple[_Array, _Array | None, Any, _Array | None]

version: str
compiler: str

def num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...

class TorchThreads:
    """In a `with`: calls of this thread are a PyTorch program's, on `most` threads that are PyTorch's own."""

    def __init__(self, most: int) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *exception: object) -> None: ...

def processors() -> dict[str, int | None]: ...
def caches() -> dict[str, int]: ...
def release_memory() -> int: ...
def tiers_built() -> list[str]: ...
def tiers_available() -> list[str]: ...
def active_tier() -> str: ...
def empty_float32(shape: tuple[int, ...]) -> _Array: ...
def empty_float64(shape: tuple[int, ...]) -> _Array: ...

class LayerConfig:
    def __init__(
        self,
        inputs: int,
        hidden: int,
        layers: int = 1,
        directions: int = 1,
        bias: bool = True,
        cell: int = 0,
        nonlinearity: int = 0,
        peephole: bool = False,
        coupled: bool = False,
        reset_after: bool = True,
        clip: float = 0.0,
        proj_size: int = 0,
    ) -> None: ...

class OutputConfig:
    def __init__(self, outputs: int, bias: bool, last_only: bool) -> None: ...

class MemoryPlan:
    @property
    def places(self) -> int: ...
    @property
    def states(self) -> int: ...
    @property
    def chunks(self) -> int: ...
    @property
    def runs(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def limited(self) -> bool: ...

class TapeFloat32:
    @property
    def steps(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

class TapeFloat64(TapeFloat32): ...  # in the core another class; of the same methods
class PackedFloat32: ...
class PackedFloat64(PackedFloat32): ...

class _Network:  # what layers and models have alike
    @overload
    def infer(
        self, x: object, state: object, options: None, packed: PackedFloat32 | None
    ) -> tuple[_Array, Any] | None: ...
    @overload
    def infer(
        self, x: _Array, state: Any, options: _Options, packed: PackedFloat32 | None
    ) -> tuple[_Array, Any]: ...
    def pack(self, tokens: bool) -> PackedFloat32: ...

class LayerFloat32(_Network):
    def __init__(self, config: LayerConfig, flat: _Array) -> None: ...
    @overload
    def forward(
        self, x: object, state: object, options: None, packed: PackedFloat32 | None
    ) -> tuple[_Array, Any, _Array | None, TapeFloat32] | None: ...
    @overload
    def forward(
        self, x: _Array, state: Any, options: _Options, packed: PackedFloat32 | None
    ) -> tuple[_Array, Any, _Array | None, TapeFloat32]: ...
    def backward(
        self,
        tape: TapeFloat32,
        mask: _Array | None,
        d_output: object,
        d_state: object,
        d_cells: _Array | None,
        limits: _Limits | None,
        input: bool,
        hidden: bool,
    ) -> _Gradients | None: ...
    def plan(
        self, steps: int, batch: int, lengths: _Array | None, tokens: bool, limit: int
    ) -> MemoryPlan: ...
    def tape_bytes(self, steps: int, batch: int, lengths: _Array | None, tokens: bool) -> int: ...

class LayerFloat64(LayerFloat32): ...

class ModelFloat32(_Network):
    def __init__(
        self, config: LayerConfig, output: OutputConfig, classes: bool, mean: bool, flat: _Array
    ) -> None: ...
    @overload
    def loss_and_grad(
        self,
        x: object,
        y: object,
        scale: None,
        state: object,
        options: None,
        limits: None,
        input: bool,
        hidden: bool,
    ) -> tuple[float, _Gradients, Any] | None: ...
    @overload
    def loss_and_grad(
        self,
        x: _Array,
        y: _Array,
        scale: float,
        state: Any,
        options: _Options,
        limits: _Limits | None,
        input: bool,
        hidden: bool,
    ) -> tuple[float, _Gradients, Any]: ...
    @overload
    def loss(
        self, x: object, y: object, scale: None, state: object, options: None
    ) -> tuple[float, Any] | None: ...
    @overload
    def loss(
        self, x: _Array, y: _Array, scale: float, state: Any, options: _Options
    ) -> tuple[float, Any]: ...
    def plan(
        self,
        steps: int,
        batch: int,
        lengths: _Array | None,
        tokens: bool,
        input: bool,
        limits: _Limits | None,
        limit: int,
    ) -> MemoryPlan: ...

class ModelFloat64(ModelFloat32): ...

def linear_scan(b: _Array, c: _Array, a_0: _Array | None, a: _Array) -> None: ...
def linear_scan_backward(
    d_a: _Array, c: _Array, a: _Array, a_0: _Array | None
) -> tuple[_Array, _Array, _Array]: ...

class tensors_float32:
    """A submodule: calls on tensors, whose addresses come as integers, 0 for none."""

    @staticmethod
    def forward(
        config: LayerConfig,
        steps: int,
        batch: int,
        packed_rows: int,
        lengths: int,
        x: int,
        h_0: int,
        c_0: int,
        parameters: list[int],
        mask: int,
        output: int,
        h_n: int,
        c_n: int,
        keep: bool,
        plan: MemoryPlan | None,
        threads: int,
    ) -> TapeFloat32 | None: ...
    @staticmethod
    def backward(
        tape: TapeFloat32,
        config: LayerConfig,
        mask: int,
        d_output: int,
        d_h: int,
        d_c: int,
        parameters: list[int],
        x: int,
        h_0: int,
        c_0: int,
        limits: _Limits | None,
        threads: int,
    ) -> None: ...
    @staticmethod
    def plan(
        config: LayerConfig, steps: int, batch: int, packed_rows: int, lengths: int, input: bool, limit: int
    ) -> MemoryPlan: ...

class tensors_float64(tensors_float32): ...
