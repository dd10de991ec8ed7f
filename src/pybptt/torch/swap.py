"""Our layers in the place of torch.nn's inside a model, and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from .modules import DTYPES, GRU, LSTM, RNN

OURS = {torch.nn.RNN: RNN, torch.nn.LSTM: LSTM, torch.nn.GRU: GRU}
THEIRS = {ours: theirs for theirs, ours in OURS.items()}


@dataclass
class Swapped:
    """What `accelerate` or `restore` has done; `str` of it says so in a line for each layer.

    Attributes
    ----------
    swapped : dict of str to str
        Names of layers in the model (``""`` is the model itself), and what they have become.
    left : dict of str to str
        Names of recurrent layers and cells that are as they were, and why.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.LSTM(3, 8), torch.nn.LSTMCell(8, 8))
    >>> pybptt.torch.accelerate(model)
    0: pybptt.torch.LSTM
    1: left, LSTMCell: a cell runs a single step, which has no sweep over time to gain from
    """

    swapped: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        lines = [f"{name or 'the model'}: {now}" for name, now in self.swapped.items()]
        lines += [f"{name or 'the model'}: left, {why}" for name, why in self.left.items()]
        return "\n".join(lines) or "no recurrent layers"


def accelerate(model: Any) -> Swapped:
    """Makes every torch.nn.RNN, LSTM and GRU inside a model one of ours, in place.

    The layers stay the same objects with the same Parameters, hooks and names, so an optimizer, a learning
    rate schedule or a checkpoint made before goes on working. It is their class alone that changes.

    Parameters
    ----------
    model : torch.nn.Module
        A layer is left as it is if it is of a class of its own (a subclass, also one with parametrized
        weights), on another device than the CPU, or neither float32 nor float64.

    Returns
    -------
    Swapped
        What was swapped, and what was left and why; cells too.

    Raises
    ------
    TypeError
        For a model that is no torch.nn.Module.

    Examples
    --------
    >>> model = torch.nn.ModuleDict({"encoder": torch.nn.GRU(3, 8), "head": torch.nn.Linear(8, 2)})
    >>> print(pybptt.torch.accelerate(model))
    encoder: pybptt.torch.GRU
    >>> print(pybptt.torch.restore(model))
    encoder: torch.nn.GRU
    """
    report = Swapped()
    for name, layer in modules_of(model):
        kind = type(layer)
        if kind in OURS:
            weight = layer._flat_weights[0]
            if weight.device.type != "cpu":
                report.left[name] = f"{kind.__name__}: on {weight.device}; ours run on the CPU"
            elif weight.dtype not in DTYPES:
                report.left[name] = f"{kind.__name__}: of {weight.dtype}; ours are of float32 or float64"
            else:
                layer.__class__ = OURS[kind]
                report.swapped[name] = f"pybptt.torch.{kind.__name__}"
        elif isinstance(layer, torch.nn.modules.rnn.RNNCellBase):
            report.left[name] = (
                f"{kind.__name__}: a cell runs a single step, which has no sweep over time to gain from"
            )
        elif isinstance(layer, torch.nn.modules.rnn.RNNBase) and kind not in THEIRS:
            report.left[name] = (
                f"{kind.__name__}: a class of its own, whose forward pass may not be torch.nn's"
            )
    return report


def restore(model: Any) -> Swapped:
    """Makes every layer of ours inside a model torch.nn's again, in place: what `accelerate` did, undone.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    Swapped

    Raises
    ------
    TypeError
        For a model that is no torch.nn.Module.

    Examples
    --------
    >>> layer = pybptt.torch.LSTM(3, 8)
    >>> print(pybptt.torch.restore(layer))
    the model: torch.nn.LSTM
    >>> type(layer) is torch.nn.LSTM
    True
    """
    report = Swapped()
    for name, layer in modules_of(model):
        if type(layer) in THEIRS:
            layer.__class__ = THEIRS[type(layer)]
            report.swapped[name] = f"torch.nn.{type(layer).__name__}"
    return report


def modules_of(model: Any) -> list[tuple[str, Any]]:
    """Names and modules, or a TypeError."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    return list(model.named_modules())
