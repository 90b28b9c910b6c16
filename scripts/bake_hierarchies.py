"""Choose the vertices of the coarser levels of the free body and hand, once for all machines.

    python scripts/bake_hierarchies.py --out src/fasthmr/assets

Writes ``hierarchies.safetensors``: for each body and coarser level the vertices that are kept of the level
before, and the faces between them. Run it after ``bake_body.py``; it takes a few seconds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from fasthmr.body.hierarchy import (
    DEFAULT_BODIES,
    DEFAULT_LEVELS,
    HIERARCHIES_FILE,
    build_hierarchy,
    mesh_fingerprint,
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compute the mesh hierarchies of the free body and hand.")
    parser.add_argument("--out", type=Path, default=Path("src/fasthmr/assets"))
    args = parser.parse_args()
    tensors: dict[str, Tensor] = {}
    metadata = {
        "format": "fasthmr-hierarchies",
        "licence": "CC0-1.0. Made of body.safetensors and hand.safetensors",
        "source": "scripts/bake_hierarchies.py",
    }
    for kind, load in DEFAULT_BODIES.items():
        body = load()
        hierarchy = build_hierarchy(body.v_template, body.faces, levels=DEFAULT_LEVELS[kind])
        for level, kept in enumerate(hierarchy.kept, start=1):
            faces = hierarchy.faces[level]
            assert faces is not None
            tensors[f"{kind}.kept{level}"] = kept.to(torch.int16)
            tensors[f"{kind}.faces{level}"] = faces.to(torch.int16)
        metadata[kind] = mesh_fingerprint(body.v_template, body.faces)
        print(f"{kind}: {' > '.join(map(str, hierarchy.sizes))} vertices")
    path = args.out / HIERARCHIES_FILE
    save_file(tensors, path, metadata=metadata)
    path.chmod(0o644)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
