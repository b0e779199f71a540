"""Lets a torchvision whose operators are built for CUDA be imported beside a torch without it.

Its import registers shapes of two operators that its library, which cannot be loaded, would have
brought. They are declared here before, and not implemented: nothing that is run needs them.
"""

import sys
from importlib.abc import MetaPathFinder


class _DeclaresOperators(MetaPathFinder):
    """Finds nothing; acts once, before torchvision is found."""

    def find_spec(self, fullname, path=None, target=None):
        """See `MetaPathFinder.find_spec`."""
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch

            library = torch.library.Library("torchvision", "FRAGMENT")
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _kept.append(library)
        return None


_kept = []
sys.meta_path.insert(0, _DeclaresOperators())
