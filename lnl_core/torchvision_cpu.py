"""Lets `import torchvision` work where its compiled extension cannot load (CPU torch, CUDA-linked torchvision).

torchvision registers Python-side kernels for `nms` and `qnms` at import and dies when the compiled library that
declares the two schemas is missing. Declaring them is enough for models and transforms; `torchvision.ops.nms` and
`torchvision.io.decode_*` stay unavailable (images are decoded with Pillow here). Where the extension loads, this
module does nothing. Import it before torchvision or anything that imports torchvision (lightly, timm).
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import Any

import torch

_kept_alive: list[Any] = []  # a Library's definitions vanish with the object


def _extension_loads() -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True  # nothing to mend: the import will say so itself
    libraries = list(Path(spec.origin).parent.glob("_C*.so")) + list(Path(spec.origin).parent.glob("_C*.pyd"))
    try:
        for library in libraries:
            ctypes.CDLL(str(library))
    except OSError:
        return False
    return bool(libraries)


def mend() -> None:
    """Declare the schemas that the missing extension would have declared; harmless when called again."""
    if _kept_alive or _extension_loads():
        return
    library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor dets_scale, Tensor dets_zp, Tensor scores, float iou_threshold) -> Tensor")
    _kept_alive.append(library)


mend()
