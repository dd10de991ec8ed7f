"""``python -m pybptt``."""

import sys

from .cli import main

sys.exit(main())
