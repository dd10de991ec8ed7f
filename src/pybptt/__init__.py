"""Gradients of recurrent networks on a CPU: backpropagation through time, from NumPy arrays to NumPy arrays.

>>> import numpy as np, pybptt
>>> rnn = pybptt.RNN(input_size=3, hidden_size=8, seed=0)
>>> x = np.ones((20, 4, 3), dtype=np.float32)  # (T, B, D)
>>> output, state, tape = rnn.forward(x)
>>> gradients = rnn.backward(tape, d_output=np.ones_like(output), hidden=True)
>>> gradients.parameters["weight_hh_l0"].shape, gradients.hidden.shape
((8, 8), (1, 20, 4, 8))
"""

from . import _threadpool as _threadpool
from . import data, onnx, optim, recurrence, reference
from ._core import version as __version__
from .checks import check_gradients
from .files import load
from .flow import GradientFlow, gradient_flow
from .gradients import Gradients, clip_by_norm, clip_by_value
from .layers import GRU, LSTM, RNN
from .machine import config, get_num_threads, release_memory, set_num_threads, show_config
from .memory import Memory, MemoryChoice
from .model import SequenceModel
from .packed import Packed, PackedLayer
from .streaming import Step
from .tape import Tape
from .textbook import bptt
from .truncation import ARTBP, TBPTT, RandomTruncation

__all__ = [
    "ARTBP",
    "GRU",
    "LSTM",
    "RNN",
    "TBPTT",
    "GradientFlow",
    "Gradients",
    "Memory",
    "MemoryChoice",
    "Packed",
    "PackedLayer",
    "RandomTruncation",
    "SequenceModel",
    "Step",
    "Tape",
    "__version__",
    "bptt",
    "check_gradients",
    "clip_by_norm",
    "clip_by_value",
    "config",
    "data",
    "get_num_threads",
    "gradient_flow",
    "load",
    "onnx",
    "optim",
    "recurrence",
    "reference",
    "release_memory",
    "set_num_threads",
    "show_config",
]


def __dir__() -> list[str]:
    return __all__
