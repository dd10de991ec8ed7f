"""What the tests of the command line share."""

import re
import sys

import numpy as np

import pybptt

PYTHON = [sys.executable, "-m", "pybptt"]
SMALL = ["--hidden", "12", "--batch", "4", "--window", "10", "--sample", "20"]


def number(pattern, output):
    found = re.search(pattern, output)
    assert found, output
    return float(found[1].replace(",", ""))


def contents(path):
    """What `train --save` wrote: arrays and facts, by name."""
    model = pybptt.load(path)
    arrays, facts = dict(model.parameters), {}
    for name, value in model.extra.items():
        if name in ("optimiser", "state"):
            arrays |= {f"{name}.{part}": array for part, array in value.items()}
        elif isinstance(value, np.ndarray):
            arrays[name] = value
        else:
            facts[name] = value
    return arrays, facts
