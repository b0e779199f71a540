"""A process that kills itself at its n-th transaction with the server, before or behind it."""

import subprocess
import sys

_HEAD = """
import os, signal, sys
from redis.client import Pipeline

kill_at, sends_it, arguments = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
execute, count = Pipeline.execute, 0

def execute_or_die(self, *args, **options):
    global count
    count += 1
    if count == kill_at:
        if sends_it:
            execute(self, *args, **options)
        os.kill(os.getpid(), signal.SIGKILL)
    return execute(self, *args, **options)

Pipeline.execute = execute_or_die
"""


def run_killed(script: str, kill_at: int, *arguments: object, sends_it: bool) -> int:
    """Run `script`, which finds its `arguments` as texts, and return its exit code."""
    command = [sys.executable, "-c", _HEAD + script, str(kill_at), str(int(sends_it))]
    return subprocess.run([*command, *map(str, arguments)], check=False).returncode
