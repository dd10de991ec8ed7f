"""What a layer or a model is made of, as a text."""

from __future__ import annotations

from typing import Any

from ._arrays import flag
from .memory import readable


def summary(owner: Any, steps: int | None, batch: int | None, tokens: bool) -> str:
    """What `pybptt.parameters.FlatParameters.summary` says."""
    tokens = flag("tokens", tokens)
    if (steps is None) != (batch is None):
        given, missing = ("steps", "batch") if batch is None else ("batch", "steps")
        raise TypeError(f"{missing}: expected a number, because {given} is one, got None")
    layer = getattr(owner, "layer", owner)
    rows: list[tuple[str, int, int, int]] = []  # name, input, output, parameters
    for index in range(layer.num_layers):
        inputs = layer.input_size if index == 0 else layer._width
        for direction in ("", "_reverse")[: layer._directions]:
            own = [a.size for name, a in layer.parameters.items() if name.endswith(f"_l{index}{direction}")]
            name = f"{type(layer).__name__} {index}{direction.replace('_', ' ')}"
            rows.append((name, inputs, layer._state_size, sum(own)))
    width = layer._width
    if owner is not layer:
        rows.append(("output", width, owner.output_size, owner.flat.size - layer.flat.size))
        width = owner.output_size
    rows.append(("in all", layer.input_size, width, owner.flat.size))
    longest = max(len(name) for name, *_ in rows)
    lines = [
        repr(owner),
        f"{'':{longest}}{'input':>10}{'output':>10}{'parameters':>15}",
        *(f"{name:{longest}}{i:10,}{o:10,}{count:15,}" for name, i, o, count in rows),
        f"The parameters take {readable(owner.flat.nbytes)}.",
    ]
    if steps is not None:
        call = "forward and backward" if owner is layer else "loss_and_grad"
        lines.append(f"{call} of {owner.memory(steps, batch, tokens=tokens)}")
    return "\n".join(lines)
