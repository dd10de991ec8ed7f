"""torch.nn's recurrent layers, run by the core: parts of a PyTorch program that are faster there.

>>> model = torch.nn.Sequential(torch.nn.Embedding(65, 16), torch.nn.LSTM(16, 32))
>>> pybptt.torch.accelerate(model)
1: pybptt.torch.LSTM
"""

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError(f"pybptt.torch needs PyTorch ({error}): pip install 'pybptt[torch]'") from error

from . import ops as ops
from .modules import GRU, LSTM, RNN
from .swap import Swapped, accelerate, restore

__all__ = ["GRU", "LSTM", "RNN", "Swapped", "accelerate", "restore"]


def __dir__() -> list[str]:
    return __all__
