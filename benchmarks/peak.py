"""The machine's own matrix product, the speed that a step's speed is a fraction of."""

from __future__ import annotations

import time

import numpy as np


class Peak:
    """sgemm or dgemm at n = 2048: NumPy's BLAS or PyTorch's, whichever is faster, then `source`."""

    SIZE = 2048

    def __init__(self, dtype: str, threads: int):
        a, b = np.random.default_rng(0).standard_normal((2, self.SIZE, self.SIZE)).astype(dtype)
        out = np.empty_like(a)
        products = {"NumPy": lambda: np.matmul(a, b, out=out)}
        try:
            import torch
        except ImportError:
            pass
        else:
            torch.set_num_threads(threads)
            a_, b_, out_ = (torch.from_numpy(array) for array in (a, b, out))
            products["PyTorch"] = lambda: torch.mm(a_, b_, out=out_)
        for product in products.values():
            product()
        self.found: dict[str, list[float]] = {name: [] for name in products}
        for _ in range(3):
            for name, product in products.items():
                self.found[name].append(self._rate(product))
        self.source = max(products, key=lambda name: np.median(self.found[name]))
        self._product = products[self.source]

    def _rate(self, product) -> float:
        start = time.perf_counter()
        product()
        return 2 * self.SIZE**3 / (time.perf_counter() - start)

    def measure(self) -> float:
        """Flops a second of one product now."""
        return self._rate(self._product)
