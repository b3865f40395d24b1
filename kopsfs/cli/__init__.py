"""What does the command line do?

`main` turns argv into one call of one command. A module of this package offers commands through
`register(subparsers)`, which adds parsers and sets `run=` to a function from the parsed arguments to
an exit status. Only the module of the command that was asked for is imported: `kopsfs umount` must not
wait for an SDK. This package is the only place that prints.
"""

from kopsfs.cli.program import main

__all__ = ["main"]
