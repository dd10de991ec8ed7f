"""A character model on many processes or machines: PyTorch's DistributedDataParallel over gloo, our LSTM.

Every process has the whole model and some columns of each batch; DistributedDataParallel averages gradients
while the backward pass is still under way. A step's batch follows from the step's number, so a checkpoint is
parameters, optimiser and step, and fits any number of processes.

    torchrun --nproc-per-node 2 examples/torch_distributed.py
    python examples/torch_distributed.py      # one process

With a checkpoint, a process that dies costs the steps since it was written: torchrun starts all of them anew.

    torchrun --nproc-per-node 2 --max-restarts 3 examples/torch_distributed.py --checkpoint run.pt

On several machines, the same lines on each, with the checkpoint on a disk that all of them see:

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1    # a restart must not find the addresses from before it
    torchrun --nnodes 2 --nproc-per-node 2 --max-restarts 3 --rdzv-backend c10d --rdzv-endpoint HOST:29500
        examples/torch_distributed.py --checkpoint /shared/run.pt
"""

import argparse
import math
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pybptt.cli.progress import progress
from pybptt.cli.text import Corpus, read_text
from pybptt.torch import LSTM


def join() -> None:
    """Meet the processes that torchrun has started; without it, be the only one."""
    if "RANK" not in os.environ:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        return
    store, rank, processes = next(dist.rendezvous("env://"))
    if os.environ.get("LOCAL_WORLD_SIZE") == str(processes):
        # torchrun's store outlives a restart, with the addresses from before it (PyTorch issue 135712).
        store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=processes)


class CharacterModel(nn.Module):
    """Logits (T, B, symbols) of the characters that follow ids (T, B)."""

    def __init__(self, symbols: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, 64)
        self.lstm = LSTM(64, hidden)
        self.output = nn.Linear(hidden, symbols)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        output, _ = self.lstm(self.embedding(ids))
        logits: torch.Tensor = self.output(output)
        return logits


def batch_of(text: torch.Tensor, step: int, batch: int, window: int) -> tuple[torch.Tensor, torch.Tensor]:
    """This process's columns of a step's batch: ids and the ids after them, (T, b)."""
    starts = torch.randint(len(text) - window, (batch,), generator=torch.Generator().manual_seed(step))
    mine = starts.tensor_split(dist.get_world_size())[dist.get_rank()]
    place = mine + torch.arange(window)[:, None]
    return text[place], text[place + 1]


def share_of_loss(logits: torch.Tensor, y: torch.Tensor, targets: int) -> torch.Tensor:
    """What, averaged over the processes, is the mean over all their targets, whoever has how many."""
    total = nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum")
    return total * dist.get_world_size() / targets


def save(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
    """Whenever a process is killed, the file is the old checkpoint or the new one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """The step to go on from; process 0 reads, so that all go on from the same one."""
    found = [torch.load(path, weights_only=True) if dist.get_rank() == 0 and path.exists() else None]
    dist.broadcast_object_list(found)
    (saved,) = found
    if saved is None:
        return 0
    model.load_state_dict(saved["model"])
    optimiser.load_state_dict(saved["optimiser"])
    return int(saved["step"])


def train(model: nn.Module, text: torch.Tensor, args: argparse.Namespace) -> None:
    """Adam on random windows of the text (N,), from the checkpoint on if there is one."""
    parallel = DistributedDataParallel(model)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    first = load(args.checkpoint, model, optimiser) if args.checkpoint else 0
    display = progress(first, args.steps, "steps") if dist.get_rank() == 0 else None
    if display and first:
        display.note(f"going on after step {first} of {args.checkpoint}")
    for step in range(first, args.steps):
        x, y = batch_of(text, step, args.batch, args.window)
        loss = share_of_loss(parallel(x), y, args.batch * args.window)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if display:
            display.show(step + 1, f"{loss.item() / math.log(2):.3f} bits a character")
            if args.checkpoint and ((step + 1) % args.save_every == 0 or step + 1 == args.steps):
                save(args.checkpoint, model, optimiser, step + 1)
    if display:
        display.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", metavar="FILE", help="UTF-8 text (default: Python's standard library)")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument(
        "--batch", type=int, default=32, help="columns, of all processes together (default 32)"
    )
    parser.add_argument("--window", type=int, default=50, help="characters a step (default 50)")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument(
        "--checkpoint", metavar="FILE", type=Path, help="write it, and go on from it if it exists"
    )
    parser.add_argument("--save-every", metavar="N", type=int, default=100, help="steps (default 100)")
    args = parser.parse_args()

    join()
    if args.batch < dist.get_world_size():
        parser.error(
            f"--batch {args.batch} is less than a column for each of {dist.get_world_size()} processes"
        )

    corpus = Corpus(read_text(args.text), batch=1)
    torch.manual_seed(1)
    model = CharacterModel(len(corpus.vocabulary), args.hidden)
    train(model, torch.from_numpy(corpus.train[:, 0]), args)

    if dist.get_rank() == 0:
        held_out = torch.from_numpy(corpus.held_out)
        with torch.no_grad():
            loss = nn.functional.cross_entropy(model(held_out[:-1]).flatten(0, 1), held_out[1:].flatten())
        processes = dist.get_world_size()
        print(f"{processes} processes, {args.steps} steps of {args.batch} x {args.window} characters")
        print(f"on held-out text: {loss.item() / math.log(2):.3f} bits a character")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
