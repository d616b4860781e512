"""`python -m fewstep` is the `fewstep` command."""

import os
import sys

if sys.path and sys.path[0] == os.getcwd() and not getattr(sys.flags, "safe_path", False):
    # `-m` puts the current folder first. A module there, perhaps part of a downloaded model, would hide installed ones.
    del sys.path[0]

from fewstep.cli.main import main

if __name__ == "__main__":
    main()
