"""Tells `threadpoolctl` of the core, so that it reports and limits its threads like those of BLAS.

It is no dependency and takes time to import, so it is told when it is imported, before pybptt or after.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from ._core import version


def register(threadpoolctl: Any) -> None:
    """Add our controller, unless it is older than 3.3, which took none."""
    if not hasattr(threadpoolctl, "register"):
        return

    class Controller(threadpoolctl.LibController):  # type: ignore[misc]
        user_api = internal_api = "pybptt"
        filename_prefixes = ("_core",)
        check_symbols = ("pybptt_get_num_threads",)  # others have a module _core too

        def get_num_threads(self) -> int:
            return int(self.dynlib.pybptt_get_num_threads())

        def set_num_threads(self, num_threads: int) -> None:
            self.dynlib.pybptt_set_num_threads(num_threads)

        def get_version(self) -> str:
            return version

    threadpoolctl.register(Controller)


class Finder:
    """Waits for its import; others may merely ask whether it is there.

    It stays on `sys.meta_path`: removed while another thread goes along that list, it would make it miss one.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "threadpoolctl":
            return None
        others = [f for f in sys.meta_path if f is not self and hasattr(f, "find_spec")]
        spec = next(filter(None, (f.find_spec(name, path, target) for f in others)), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                register(module)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


if "threadpoolctl" in sys.modules:
    register(sys.modules["threadpoolctl"])
else:
    sys.meta_path.insert(0, Finder())
