"""`python -m fewstep` is the `fewstep` command."""

from fewstep.cli.main import main

if __name__ == "__main__":
    main()
