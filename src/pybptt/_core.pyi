from typing import Any, TypeAlias

from numpy.typing import NDArray

_Array: TypeAlias = NDArray[Any]
_Tape: TypeAlias = TapeFloat32 | TapeFloat64

version: str
compiler: str

def num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def tiers_built() -> list[str]: ...
def tiers_available() -> list[str]: ...
def active_tier() -> str: ...
def empty_float32(shape: tuple[int, ...]) -> _Array: ...
def empty_float64(shape: tuple[int, ...]) -> _Array: ...

class LayerConfig:
    def __init__(self, inputs: int, hidden: int, bias: bool, nonlinearity: int) -> None: ...

class OutputConfig:
    def __init__(self, outputs: int, bias: bool, last_only: bool) -> None: ...

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
    state: _Array | None,
    output: _Array,
    final_state: _Array,
    keep_tape: bool,
) -> _Tape | None: ...
def backward(
    tape: _Tape,
    bias: bool,
    d_output: _Array | None,
    d_state: _Array | None,
    flat: _Array,
    input: _Array | None,
    state: _Array | None,
    hidden: _Array | None,
) -> None: ...
def loss_and_grad(
    flat: _Array,
    config: LayerConfig,
    output: OutputConfig,
    x: _Array,
    y: _Array,
    scale: float,
    state: _Array | None,
    final_state: _Array,
    gradient: _Array,
    input_gradient: _Array | None,
    state_gradient: _Array | None,
    hidden_gradient: _Array | None,
    truncation: int | None,
) -> float: ...
def loss(
    flat: _Array,
    config: LayerConfig,
    output: OutputConfig,
    x: _Array,
    y: _Array,
    scale: float,
    state: _Array | None,
    final_state: _Array,
) -> float: ...
def predict(
    flat: _Array,
    config: LayerConfig,
    output: OutputConfig,
    x: _Array,
    state: _Array | None,
    to: _Array,
    final_state: _Array,
) -> None: ...
