"""Show version, compiler, instruction sets, threads, and what it all runs on."""

from __future__ import annotations

import argparse
import platform

from .. import show_config

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It has no options."""


def run(args: argparse.Namespace) -> int:
    """Print one line a fact."""
    show_config()
    print(f"{'python':<16} {platform.python_version()}")
    print(f"{'machine':<16} {platform.system()} {platform.machine()}")
    return 0
