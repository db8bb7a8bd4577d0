"""Detection transformers for ultrasound: train, distil, evaluate, run.

>>> import sonodetr
>>> model = sonodetr.load("runs/nerves")  # doctest: +SKIP
>>> for detections in model.predict("cine.dcm"):  # doctest: +SKIP
...     print(detections.frame_index, detections.boxes_xyxy_px)
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public name -> module that defines it; loaded on first use, so that `import sonodetr` is instant.
_PUBLIC = {
    "Detections": "sonodetr.types",
    "Frame": "sonodetr.types",
    "InputError": "sonodetr.files",
    "Labels": "sonodetr.types",
    "Predictor": "sonodetr.predictor",
    "Video": "sonodetr.types",
    "load": "sonodetr.predictor",
    "load_config": "sonodetr.config_file",
    "read": "sonodetr.formats",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'sonodetr' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
