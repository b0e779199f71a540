"""The bench of short commands: each is run and measured, and one that crashes is no figure."""

import sys

import pytest

from bench import start


@pytest.mark.slow
def test_the_bench_gives_the_time_of_each_command():
    result = start.run(rounds=1)
    assert all(result[f"{name}_cpu_s"] > 0.01 for name in start.COMMANDS)
    assert result["largest_cpu_s"] == max(result[f"{name}_cpu_s"] for name in start.COMMANDS)


def test_a_command_that_crashes_gives_no_figure():
    with pytest.raises(RuntimeError, match="exit code -6"):
        start._cpu_s([sys.executable, "-c", "import os; os.abort()"])
