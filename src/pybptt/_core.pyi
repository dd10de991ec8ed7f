from collections.abc import Callable
from typing import Any, TypeAlias

from numpy.typing import NDArray

_Array: TypeAlias = NDArray[Any]
_Tape: TypeAlias = TapeFloat32 | TapeFloat64

version: str
compiler: str

def num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
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
    ) -> None: ...

class OutputConfig:
    def __init__(self, outputs: int, bias: bool, last_only: bool) -> None: ...

class MemoryPlan:
    def __init__(self) -> None: ...
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
    def dense(self) -> bool: ...
    @property
    def nbytes(self) -> int: ...

class TapeFloat64:
    @property
    def steps(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def dense(self) -> bool: ...
    @property
    def nbytes(self) -> int: ...

def forward(
    flat: _Array,
    config: LayerConfig,
    x: _Array,
    lengths: _Array | None,
    mask: _Array | None,
    h_0: _Array | None,
    c_0: _Array | None,
    output: _Array,
    h_T: _Array | None,
    c_T: _Array | None,
    cells: _Array | None,
    keep_tape: bool,
    plan: MemoryPlan,
    progress: Callable[[int, int], object] | None,
) -> _Tape | None: ...
def backward(
    tape: _Tape,
    config: LayerConfig,
    mask: _Array | None,
    d_output: _Array | None,
    d_h: _Array | None,
    d_c: _Array | None,
    d_cells: _Array | None,
    flat: _Array,
    input: _Array | None,
    h_0: _Array | None,
    c_0: _Array | None,
    hidden: _Array | None,
    factors: _Array | None,
    windows: tuple[int, int],
    clip: int,
    clip_limit: float,
) -> None: ...
def tape_bytes_float32(
    config: LayerConfig, steps: int, batch: int, lengths: _Array | None, tokens: bool
) -> int: ...
def tape_bytes_float64(
    config: LayerConfig, steps: int, batch: int, lengths: _Array | None, tokens: bool
) -> int: ...
def plan_float32(
    config: LayerConfig,
    steps: int,
    batch: int,
    lengths: _Array | None,
    tokens: bool,
    input_gradient: bool,
    limit: int,
) -> MemoryPlan: ...
def plan_float64(
    config: LayerConfig,
    steps: int,
    batch: int,
    lengths: _Array | None,
    tokens: bool,
    input_gradient: bool,
    limit: int,
) -> MemoryPlan: ...
def plan_model_float32(
    config: LayerConfig,
    output: OutputConfig,
    classes: bool,
    steps: int,
    batch: int,
    lengths: _Array | None,
    tokens: bool,
    input_gradient: bool,
    limit: int,
    windows: tuple[int, int] = (0, 0),
    clip: int = 0,
) -> MemoryPlan: ...
def plan_model_float64(
    config: LayerConfig,
    output: OutputConfig,
    classes: bool,
    steps: int,
    batch: int,
    lengths: _Array | None,
    tokens: bool,
    input_gradient: bool,
    limit: int,
    windows: tuple[int, int] = (0, 0),
    clip: int = 0,
) -> MemoryPlan: ...
def loss_and_grad(
    flat: _Array,
    config: LayerConfig,
    output: OutputConfig,
    x: _Array,
    y: _Array,
    scale: float,
    lengths: _Array | None = None,
    mask: _Array | None = None,
    h_0: _Array | None = None,
    c_0: _Array | None = None,
    h_T: _Array | None = None,
    c_T: _Array | None = None,
    *,
    gradient: _Array,
    input_gradient: _Array | None = None,
    d_h_0: _Array | None = None,
    d_c_0: _Array | None = None,
    hidden_gradient: _Array | None = None,
    counted: _Array | None = None,
    factors: _Array | None = None,
    windows: tuple[int, int] = (0, 0),
    clip: int = 0,
    clip_limit: float = 0.0,
    plan: MemoryPlan = ...,
    progress: Callable[[int, int], object] | None = None,
) -> float: ...
def loss(
    flat: _Array,
    config: LayerConfig,
    output: OutputConfig,
    x: _Array,
    y: _Array,
    scale: float,
    lengths: _Array | None = None,
    mask: _Array | None = None,
    h_0: _Array | None = None,
    c_0: _Array | None = None,
    h_T: _Array | None = None,
    c_T: _Array | None = None,
) -> float: ...
def predict(
    flat: _Array,
    config: LayerConfig,
    output: OutputConfig,
    x: _Array,
    lengths: _Array | None = None,
    mask: _Array | None = None,
    h_0: _Array | None = None,
    c_0: _Array | None = None,
    *,
    to: _Array,
    h_T: _Array | None = None,
    c_T: _Array | None = None,
) -> None: ...
def linear_scan(b: _Array, c: _Array, a_0: _Array | None, a: _Array) -> None: ...
def linear_scan_backward(
    d_a: _Array, c: _Array, a: _Array, a_0: _Array | None, d_b: _Array, d_c: _Array, d_a_0: _Array
) -> None: ...
