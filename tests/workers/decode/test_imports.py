"""Decoding leans on nothing above it: a process that only decodes stays small."""

import subprocess
import sys


def test_a_decoder_loads_no_model_no_cluster_no_store_and_no_torch():
    program = "import sys, workers.decode.reader; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = done.stdout.split()
    above = ("workers.models", "workers.seams", "workers.cluster", "aot", "pipeline")
    others = ("transformers", "ray", "pyarrow", "torch", "redis")
    assert "workers.decode.reader" in loaded, done.stderr
    assert [name for name in loaded if name.split(".")[0] in others or name.startswith(above)] == []
