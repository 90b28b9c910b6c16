"""Pictures and videos of people to 3D body meshes.

    import fasthmr

    clip = fasthmr.Pipeline()("photo.jpg")
    clip.save("person.glb")

Names are imported on first use, so that `import fasthmr` and the command line start fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fasthmr.acceleration.accelerate import accelerate
    from fasthmr.errors import (
        CheckpointMismatch,
        FastHMRError,
        InputError,
        MissingExtra,
        PartialFailure,
        ResourceError,
        UnsafeFileError,
        UsageError,
    )
    from fasthmr.results import Clip, Person, PoseClip, PosePerson
    from fasthmr.runtime.pipeline import Pipeline
    from fasthmr.runtime.video_options import VideoOptions
    from fasthmr.zoo import create_model, list_models

__all__ = [
    "CheckpointMismatch",
    "Clip",
    "FastHMRError",
    "InputError",
    "MissingExtra",
    "PartialFailure",
    "Person",
    "Pipeline",
    "PoseClip",
    "PosePerson",
    "ResourceError",
    "UnsafeFileError",
    "UsageError",
    "VideoOptions",
    "__version__",
    "accelerate",
    "create_model",
    "list_models",
]

_HOME = {
    "accelerate": "fasthmr.acceleration.accelerate",
    "Clip": "fasthmr.results",
    "Person": "fasthmr.results",
    "Pipeline": "fasthmr.runtime.pipeline",
    "PoseClip": "fasthmr.results",
    "PosePerson": "fasthmr.results",
    "VideoOptions": "fasthmr.runtime.video_options",
    "create_model": "fasthmr.zoo",
    "list_models": "fasthmr.zoo",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'fasthmr' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME.get(name, "fasthmr.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
