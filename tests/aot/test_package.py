"""What the package promises as a whole: its names, and what it does not need."""

import subprocess
import sys
from inspect import ismodule

import aot

BARE = """
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"ray", "av", "redis", "transformers", "pyarrow", "pydantic"}:
            raise ModuleNotFoundError(f"{name} is not installed here")

sys.meta_path.insert(0, Absent())
import torch, aot
clip = aot.FrameFeatures(torch.randn(2, 36, 8), torch.rand(2, 36), torch.rand(2, 36), (6, 6))
print(len(aot.compress_clip(clip, aot.AOTConfig(anchors_per_frame=16, window=3))) > 0)
"""


def test_all_lists_every_public_name():
    for name in aot.__all__:  # loads it
        getattr(aot, name)
    public = {
        name
        for name, value in vars(aot).items()
        if not name.startswith("_") and not ismodule(value) and name != "TYPE_CHECKING"
    }
    assert set(aot.__all__) == public


def test_the_package_works_on_torch_alone():
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, timeout=200)
    assert done.stdout.strip() == "True", done.stderr
