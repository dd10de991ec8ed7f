"""The command line: ``python -m pybptt train | compare | flow | info``.

Exit codes: 0 success, 1 the work itself failed (a gradient beyond the bound, a loss that isn't
finite), 2 bad options or input, 130 ended by Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .. import __version__, config
from . import compare, flow, info, train
from .common import CommandError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The words after the program's name; by default those of this process.
    """
    args = _parser().parse_args(argv)
    _replace_unprintable()
    try:
        config()  # that the environment variables make sense is found out before any work
    except (RuntimeError, ValueError) as error:
        return _fail(args, str(error), 2)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except CommandError as error:
        return _fail(args, str(error), error.code)
    except MemoryError:
        return _fail(args, "these sizes need more memory than there is", 2)
    except KeyboardInterrupt:
        return _fail(args, "interrupted", 130)
    except BrokenPipeError:
        # Who read our output (``| head``) has gone; the interpreter's flush at exit would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pybptt",
        description="Exact gradients of recurrent networks on a CPU: watch them train, check them, compare, "
        "see how they flow.",
    )
    parser.add_argument("--version", action="version", version=f"pybptt {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")
    for command in (train, compare, flow, info):
        name = command.__name__.rpartition(".")[2]
        summary = (command.__doc__ or "").partition("\n")[0]
        subparser = commands.add_parser(
            name,
            help=summary,
            description=command.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def _replace_unprintable() -> None:
    """Print what the terminal's encoding lacks as an escape: text of any alphabet may come up."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _fail(args: argparse.Namespace, message: str, code: int) -> int:
    print(f"pybptt {args.command}: error: {message}", file=sys.stderr)
    return code
