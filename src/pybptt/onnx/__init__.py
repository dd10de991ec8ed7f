"""Models and weights to ONNX, and weights from it.

`export` writes a whole model or layer to a file (it needs ``pip install 'pybptt[onnx]'``). The others convert
the weights of ONNX's operators RNN, LSTM and GRU, both ways, and need NumPy alone.

An operator is one layer, of K = 2 directions if it is bidirectional, else 1. Its tensors are, with G = 1 gate
for RNN, 4 for LSTM and 3 for GRU (the ONNX operator specification, https://onnx.ai/onnx/operators/):

=====  =============  ===========================================================================
W      (K, G*H, D)    weight_ih, gates in the order i o f c (LSTM) or z r h (GRU)
R      (K, G*H, H)    weight_hh, likewise
B      (K, 2*G*H)     bias_ih, then bias_hh; without it they are zero
P      (K, 3*H)       LSTM only: the peephole weights in the order i o f; without it there are none
=====  =============  ===========================================================================

and its attributes stand for a layer's arguments:

- ``direction``: ``bidirectional``. No layer runs in reverse alone: see `reverse_sequences`.
- ``layout`` 0 or 1: ``batch_first``. ONNX keeps the directions on an axis of their own, so that its Y is
  (T, K, B, H), with layout 1 (B, T, K, H), where a layer's output is (T, B, K*H) or (B, T, K*H). With layout
  1 its states are (B, K, H), where a layer's are (K, B, H) still.
- ``linear_before_reset`` 0 or 1: ``reset_after`` of a GRU.
- ``input_forget`` 0 or 1: ``coupled`` of an LSTM, f = 1 - i. The tensors have rows of f all the same, which
  nothing reads: importing leaves them out, exporting writes zeros.
- ``proj_size`` of an LSTM has no attribute: layers with a projection are refused.
- ``clip``: ``clip``, of the input of every activation, c_t before an LSTM's last tanh included. ONNX Runtime
  leaves that one out (its issue 27224), and so differs from the specification and from here.
- ``activations``: ``nonlinearity`` of an RNN, one of Tanh, Relu, Sigmoid, and Affine (with alpha 1 and
  beta 0) for "identity". LSTM and GRU have ONNX's default functions, and no others.

>>> from pybptt import onnx
>>> lstm = pybptt.LSTM(3, 8, num_layers=2, seed=0)
>>> operators = [onnx.to_onnx(lstm, index) for index in range(2)]
>>> [operator.W.shape for operator in operators]
[(1, 32, 3), (1, 32, 8)]
>>> same = pybptt.LSTM(3, 8, num_layers=2)
>>> for index, operator in enumerate(operators):
...     onnx.load_onnx(same, *operator[:5], index=index, **operator.attributes)
>>> np.array_equal(same.flat, lstm.flat)
True
"""

from .models import export
from .weights import Operator, from_onnx, load_onnx, reverse_sequences, to_onnx

__all__ = ["Operator", "export", "from_onnx", "load_onnx", "reverse_sequences", "to_onnx"]


def __dir__() -> list[str]:
    return __all__
