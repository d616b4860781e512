"""How torch's threads wait for each other, as the command line sets it. Loads no torch."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

SPIN_COUNT = 1000
"""Iterations of the loop in which a thread waits before it sleeps (some microseconds).

GNU's OpenMP waits for 300,000 iterations otherwise. Beside another busy process, the thread that it waits for may not
have a core until then. With no iterations at all, each wait costs a call of the system.
"""
_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables by which a user decides it: of every OpenMP, of GNU's (torch's on Linux), and of LLVM's (on macOS)."""


def bound_waiting(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make waiting threads sleep soon, unless the environment has a setting of its own.

    OpenMP reads the variables once, when torch is imported. Child processes inherit them.
    """
    if not any(name in environment for name in _SETTINGS):
        environment["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
        environment["KMP_BLOCKTIME"] = "1"  # milliseconds; 200 otherwise
