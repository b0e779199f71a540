"""The command line: `aot`. Results go to stdout, progress and logs to stderr.

Commands import what they need when they run, so that `aot --help` is quick.
"""

from pipeline.cli.main import main

__all__ = ["main"]
