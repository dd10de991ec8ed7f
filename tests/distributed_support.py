"""What test_distributed.py has two processes do under torchrun: each writes what it finds to FOLDER/rank.pt.

torchrun --standalone --nproc-per-node 2 tests/distributed_support.py FOLDER
"""

import argparse
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.rnn import pack_sequence
from torch.utils.checkpoint import checkpoint

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import torch_distributed as example

import pybptt.torch

T, B, D, H, Q = 7, 6, 5, 4, 3
CELLS = ("RNN", "LSTM", "GRU")
SMALL = {
    "text": None,
    "steps": 20,
    "batch": 4,
    "window": 12,
    "hidden": 16,
    "checkpoint": None,
    "save_every": 5,
}


class Model(nn.Module):
    """Two branches, of which a call uses one, an output layer, and a buffer."""

    def __init__(self, layers, cell="LSTM", seed=0):
        super().__init__()
        torch.manual_seed(seed)
        options = {"num_layers": 2, "bidirectional": True}
        self.layer, self.other = (getattr(layers, cell)(D, H, **options) for _ in range(2))
        self.output = nn.Linear(2 * H, Q)
        self.register_buffer("seed", torch.tensor(float(seed)))
        self.double()

    def forward(self, x, branch="layer", checkpointed=False):
        run = getattr(self, branch)
        features, _ = checkpoint(run, x, use_reentrant=False) if checkpointed else run(x)
        return self.output(features)


def one_branch(layers, cell="LSTM", seed=0):
    model = Model(layers, cell, seed)
    del model.other
    return model


def batch(columns=B):
    generator = torch.Generator().manual_seed(1)
    x, y = (
        torch.randn(T, columns, size, dtype=torch.float64, generator=generator, requires_grad=size == D)
        for size in (D, Q)
    )
    return x, y


def loss(outputs, y):
    return ((outputs - y) ** 2).mean()


def ragged(columns):
    """Packed columns of the batch, unsorted."""
    x, _ = batch()
    lengths = [3, 7, 1, 4, 7, 2]
    return pack_sequence([x[: lengths[i], i] for i in columns], enforce_sorted=False)


def gradients(model):
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


class Two:
    """The cases, each in both of the processes, which have half of the batch each."""

    def __init__(self, folder):
        self.folder, self.rank = folder, dist.get_rank()
        x, self.y = (part.chunk(2, dim=1)[self.rank] for part in batch())
        self.x = x.detach()

    def backward(self, parallel, **options):
        loss(parallel(self.x, **options), self.y).backward()
        return gradients(parallel.module)

    def rnn(self):
        return self.backward(DistributedDataParallel(one_branch(pybptt.torch, "RNN")))

    def lstm(self):
        return self.backward(DistributedDataParallel(one_branch(pybptt.torch, "LSTM")))

    def gru(self):
        return self.backward(DistributedDataParallel(one_branch(pybptt.torch, "GRU")))

    def accelerated(self):
        model = one_branch(nn)
        pybptt.torch.accelerate(model)
        return type(model.layer).__module__, self.backward(DistributedDataParallel(model))

    def accelerated_later(self):
        parallel = DistributedDataParallel(one_branch(nn))
        pybptt.torch.accelerate(parallel)
        return type(parallel.module.layer).__module__, self.backward(parallel)

    def no_sync(self):
        """Gradients of a step are kept, those of the next are added, and only then they go round."""
        parallel = DistributedDataParallel(one_branch(pybptt.torch))
        first, second = slice(0, 1), slice(1, 3)
        with parallel.no_sync():
            (loss(parallel(self.x[:, first]), self.y[:, first]) / 3).backward()
        alone = gradients(parallel.module)
        (loss(parallel(self.x[:, second]), self.y[:, second]) * 2 / 3).backward()
        return alone, gradients(parallel.module)

    def unused(self):
        """Each process uses the branch that the other does not."""
        parallel = DistributedDataParallel(Model(pybptt.torch), find_unused_parameters=True)
        return self.backward(parallel, branch=("layer", "other")[self.rank])

    def unused_by_all(self):
        parallel = DistributedDataParallel(Model(pybptt.torch), find_unused_parameters=True)
        return self.backward(parallel)

    def hooks(self):
        """A hook on a gradient, before it goes round; and one for the buckets, which are many."""
        model, buckets = one_branch(pybptt.torch), []
        model.layer.weight_hh_l0.register_hook(lambda gradient: 2 * gradient)
        parallel = DistributedDataParallel(model, bucket_cap_mb=1e-3)

        def count(group, bucket):
            buckets.append(bucket.index())
            return allreduce_hook(group, bucket)

        parallel.register_comm_hook(None, count)
        self.backward(parallel)
        parallel.zero_grad()
        return self.backward(parallel), buckets  # which are made after the first step

    def views(self):
        """Gradients that are the buckets, written again in the next step."""
        parallel = DistributedDataParallel(one_branch(pybptt.torch), gradient_as_bucket_view=True)
        places = []
        for _ in range(3):  # the buckets are made anew after the first
            parallel.zero_grad(set_to_none=False)
            found = self.backward(parallel)
            places.append([p.grad.data_ptr() for p in parallel.parameters()])
        return found, places[1] == places[2]

    def static_and_checkpointed(self):
        parallel = DistributedDataParallel(one_branch(pybptt.torch), static_graph=True)
        self.backward(parallel, checkpointed=True)
        parallel.zero_grad()
        return self.backward(parallel, checkpointed=True)

    def packed(self):
        """Sequences of different lengths: the processes have different numbers of steps."""
        layer = pybptt.torch.LSTM(D, H, bidirectional=True, dtype=torch.float64)
        torch.manual_seed(0)
        layer.reset_parameters()
        parallel = DistributedDataParallel(layer)
        mine = ragged(range(3) if self.rank == 0 else range(3, 6))
        output, _ = parallel(mine)
        (output.data**2).sum().backward()
        return gradients(layer)

    def start(self):
        """Processes that begin with other parameters and buffers have those of process 0."""
        parallel = DistributedDataParallel(one_branch(pybptt.torch, seed=self.rank))
        parallel.module.seed.fill_(7.0 + self.rank)
        parallel(self.x)
        return parallel.module.state_dict()

    def shares(self):
        """The example's loss where one process has three columns and the other two."""
        torch.manual_seed(0)
        model = example.CharacterModel(9, 8).double()
        parallel = DistributedDataParallel(model)
        x, y = example.batch_of(torch.arange(500) % 9, 3, 5, 12)
        example.share_of_loss(parallel(x), y, 5 * 12).backward()
        return x, y, gradients(model)

    def training(self):
        """20 steps of the example; the same stopped after 7 and gone on with from its checkpoint."""
        text = torch.randint(9, (2000,), generator=torch.Generator().manual_seed(0))

        def run(**options):
            torch.manual_seed(0)
            model = example.CharacterModel(9, 16)
            example.train(model, text, argparse.Namespace(**SMALL | options))
            return model.state_dict()

        kept = {"checkpoint": self.folder / "run.pt"}
        return run(), run(steps=7, **kept), run(**kept)


def main():
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    two = Two(folder)
    cases = [name for name, value in vars(Two).items() if callable(value) and name[0] != "_"]
    found = {name: getattr(two, name)() for name in cases if name != "backward"}
    torch.save(found | {"threads": os.environ["OMP_NUM_THREADS"]}, folder / f"{two.rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
