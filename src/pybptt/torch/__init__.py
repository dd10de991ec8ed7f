"""torch.nn's recurrent layers, run by the core: a part of a PyTorch program that is faster there."""

from . import ops as ops
from .modules import GRU, LSTM, RNN

__all__ = ["GRU", "LSTM", "RNN"]
