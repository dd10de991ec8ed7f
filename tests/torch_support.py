"""What the tests of pybptt.torch share: the same layer twice, torch.nn's and ours, and runs of both."""

from types import SimpleNamespace

import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import pybptt.torch

CELLS = ("RNN", "LSTM", "GRU")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}


def pair_of(cell, *sizes, seed=0, **options):
    """torch.nn's layer and ours from the same seed."""
    layers = []
    for package in (torch.nn, pybptt.torch):
        torch.manual_seed(seed)
        layers.append(getattr(package, cell)(*sizes, **options))
    return layers


def tensors_of(result):
    """The tensors of what a layer returns, or is given, in order."""
    if isinstance(result, PackedSequence):
        return [result.data]
    if isinstance(result, torch.Tensor):
        return [result]
    return [tensor for part in result or () for tensor in tensors_of(part)]


def random_state(layer, batch, seed=1, **options):
    """h_0, or the pair, with entries of order 1; of an unbatched call if `batch` is None."""
    generator = torch.Generator().manual_seed(seed)
    units = layer.num_layers * (2 if layer.bidirectional else 1)
    sizes = [layer.proj_size or layer.hidden_size, layer.hidden_size]
    between = () if batch is None else (batch,)
    h, c = (
        torch.randn(units, *between, size, generator=generator, dtype=layer.weight_ih_l0.dtype, **options)
        for size in sizes
    )
    return (h, c) if layer.mode == "LSTM" else h


def random_input(layer, *shape, seed=2, **options):
    """x with entries of order 1."""
    generator = torch.Generator().manual_seed(seed)
    dtype = layer.weight_ih_l0.dtype
    return torch.randn(*shape, layer.input_size, generator=generator, dtype=dtype, **options)


def gradients(results, inputs, seed=3):
    """Derivatives by the inputs of a random linear function of the results."""
    generator = torch.Generator().manual_seed(seed)
    loss = sum((r * torch.randn(r.shape, generator=generator, dtype=r.dtype)).sum() for r in results)
    return torch.autograd.grad(loss, inputs, allow_unused=True)


def run(layer, x, hx, *, lengths=None, enforce_sorted=False, seed=4, **options):
    """Results, and gradients by x, hx and all parameters; packed if there are lengths."""
    torch.manual_seed(seed)  # of dropout
    given = x
    if lengths is not None:
        given = pack_padded_sequence(x, lengths, layer.batch_first, enforce_sorted)
    results = tensors_of(layer(given, hx, **options))
    leaves = [t for t in (x, *tensors_of(hx), *layer.parameters()) if t.requires_grad]
    return SimpleNamespace(results=results, gradients=gradients(results, leaves))


def assert_same(actual, expected, tolerance=None):
    """Of lists of tensors, each within the tolerance of its dtype, relative to its largest entry or to 1."""
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert (a is None) == (b is None)
        if a is None:
            continue
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        if b.numel():
            within = (tolerance or TOLERANCE[a.dtype]) * max(1.0, b.detach().abs().max().item())
            assert (a - b).detach().abs().max().item() <= within


def assert_same_runs(actual, expected, tolerance=None):
    assert_same(actual.results, expected.results, tolerance)
    assert_same(actual.gradients, expected.gradients, tolerance)
