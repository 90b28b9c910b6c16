"""What METRO-like models learn from the data sets of METRO's files."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fasthmr.data.metro_batch import ANNOTATED_ROOT, TOKEN_JOINTS, MetroBatch, cut_rows
from fasthmr.data.metro_example import MetroAugmentation, draw_metro_augmentation
from fasthmr.data.metro_tsv import MetroTsv
from fasthmr.training.mesh_subject import MeshSubject
from fasthmr.training.tore_data import MeshBatch
from fasthmr.training.tore_losses import MeshLabels
from fasthmr.types import BodyParams


class MetroCrops:
    """Crops of a data set, changed as released where there is a generator."""

    def __init__(self, subject: MeshSubject, data: MetroTsv, image_size: tuple[int, int]) -> None:
        self.subject, self.data, self.image_size = subject, data, image_size
        self._joints = subject.joints(fitted=True)

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> MeshBatch:
        """Samples by number.

        Raises:
            InputError: A row cannot be read.
        """
        rows = [self.data[index] for index in indices.tolist()]
        kind = self.subject.kind
        changes = [MetroAugmentation()] * len(rows)
        if generator is not None:
            seeds = torch.randint(2**62, (len(rows),), generator=generator).tolist()
            changes = [
                draw_metro_augmentation(np.random.default_rng(seed), hand=kind == "hand") for seed in seeds
            ]
        batch = cut_rows(rows, changes, self.image_size)
        params = batch.params(self.subject.body, kind)
        labels = self._labels(batch, params)
        return MeshBatch(seen=batch.seen, params=params, labels=labels, annotated=True)

    def _labels(self, batch: MetroBatch, params: BodyParams) -> MeshLabels:
        """Joints about the annotated root, meshes about their own."""
        with torch.no_grad():
            levels = self.subject.levels(params)
            _, root = self._joints(levels[-1])
        kind = self.subject.kind
        chosen = list(TOKEN_JOINTS[kind])
        middle = batch.joints_3d[:, ANNOTATED_ROOT[kind], :3][:, None]
        joints_3d = torch.cat([batch.joints_3d[..., :3] - middle, batch.joints_3d[..., 3:]], dim=-1)
        return MeshLabels(
            joints_2d=batch.joints_2d[:, chosen],
            joints_3d=joints_3d[:, chosen],
            vertices=tuple(level - root for level in levels),
            has_3d=batch.has_3d.float(),
            has_mesh=batch.has_mesh.float(),
        )
