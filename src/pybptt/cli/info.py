"""Show version, compiler, instruction sets, threads, and what it all runs on."""

from __future__ import annotations

import argparse
import platform

import numpy as np

from .. import config

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It has no options."""


def run(args: argparse.Namespace) -> int:
    """Print one line a fact."""
    lines = {name.replace("_", " "): value for name, value in config().items()}
    lines["NumPy"] = np.__version__
    lines["Python"] = platform.python_version()
    lines["machine"] = f"{platform.system()} {platform.machine()}"
    width = max(map(len, lines))
    for name, value in lines.items():
        text = (
            value
            if isinstance(value, str) or not isinstance(value, (list, tuple))
            else ", ".join(map(str, value))
        )
        print(f"{name:{width}}  {text}")
    return 0
