"""What a process loads that only lists streams."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "av", "ray", "transformers", "pyarrow", "numpy")


@pytest.mark.parametrize(
    "code",
    [
        "import pipeline.store",
        "import pipeline.store.redis, pipeline.store.memory, pipeline.store.embedded",
        "import pipeline.store as s; s.open_store(s.StoreConfig('memory://')).list_streams()",
    ],
)
def test_the_store_loads_no_tensors_no_decoder_and_no_arrow(code):
    look = f"import sys; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{look}"], capture_output=True, text=True, timeout=200
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
