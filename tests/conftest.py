"""For all tests."""

import os

# As in the command (sw/cli.py), and before NumPy is loaded: pytest-xdist fills the machine already.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
