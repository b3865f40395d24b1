"""How is kopsfs run without its script? `python -m kopsfs`."""

import sys

from kopsfs.cli import main

if __name__ == "__main__":
    sys.exit(main())
