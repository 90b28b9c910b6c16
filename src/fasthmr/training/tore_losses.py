"""The losses that METRO, FastMETRO and TORE are trained with: which terms, on what, how heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fasthmr.layers.neighbours import mix_rows
from fasthmr.training.tore_terms import (
    aligned_loss,
    cluster_loss,
    covered_cells,
    edge_length_loss,
    edge_self_loss,
    joints_2d_loss,
    joints_3d_loss,
    loss_edges,
    normal_loss,
    project_weak,
    vertices_loss,
)
from fasthmr.types import MeshOutput


@dataclass(frozen=True, kw_only=True)
class MeshLossConfig:
    """Weights of the terms; the defaults are those of TORE on FastMETRO, for bodies.

    Attributes:
        squared: Squared instead of absolute differences of joints.
        levels: Share of each mesh level in `vertices`, coarsest first.
        root: Joints about whose middle 3D joints are compared, () for as they are.
        centred: Predicted meshes are moved to their regressed root, and token joints to the middle of `root`,
            before they are projected and compared (FastMETRO).
        aligned: Of the mesh and its joints from the true one turned onto it (ours, `aligned_loss`).
        edges, edges_self, normals: Lengths of edges against the truth's, lengths alone, and angles of edges
            to the true normals, on the mesh `surface`.
        each_face: Count the edges of every face instead of every edge once.
        clusters: Of image tokens that look at the background, once `clusters_after` epochs have passed.
    """

    squared: bool = False
    joints_3d: float = 1000.0
    joints_2d: float = 100.0
    vertices: float = 100.0
    levels: tuple[float, ...] = (0.33, 0.33, 0.33)
    root: tuple[int, ...] = (2, 3)
    centred: bool = False
    aligned: float = 0.0
    edges: float = 0.0
    edges_self: float = 0.0
    normals: float = 0.0
    surface: int = -1
    each_face: bool = True
    clusters: float = 1e-3
    clusters_after: float = 3.0


TORE_FASTMETRO_LOSS = MeshLossConfig()
METRO_LOSS = MeshLossConfig(squared=True, clusters=0.0)
TORE_METRO_LOSS = replace(METRO_LOSS, edges=1.0, normals=0.1)
FASTMETRO_LOSS = MeshLossConfig(
    levels=(0.25, 0.5, 0.25),
    centred=True,
    edges=500.0,
    edges_self=0.01,
    normals=10.0,
    surface=1,
    each_face=False,
    clusters=0.0,
)
METRO_HAND_LOSS = replace(METRO_LOSS, joints_3d=1.0, joints_2d=1.0, vertices=1.0, levels=(0.5, 0.5), root=())
FASTMETRO_HAND_LOSS = replace(
    FASTMETRO_LOSS, levels=(0.5, 0.5), root=(0,), edges=100.0, edges_self=0.0, surface=-1
)
"""For hands the root is the wrist."""


@dataclass(frozen=True, kw_only=True)
class MeshLabels:
    """What is known of each sample of a batch.

    Attributes:
        joints_2d: x and y in the crop, and confidence.
        joints_3d: x, y, z about the root, and confidence.
        vertices: Levels of the true mesh about its root, coarsest first.
        has_3d, has_mesh: 1 where 3D joints, the mesh, are known, else 0.
    """

    joints_2d: Float[Tensor, "batch joints 3"]
    joints_3d: Float[Tensor, "batch joints 4"]
    vertices: tuple[Float[Tensor, "batch _vertices 3"], ...]
    has_3d: Float[Tensor, " batch"]
    has_mesh: Float[Tensor, " batch"]


class MeshJoints(nn.Module):
    """Joints, and the root, as sparse sums of the vertices of the finest level.

    Args:
        regressor: A row of weights for each joint.
        root: A row for the root.
    """

    index: Tensor
    weight: Tensor

    def __init__(self, regressor: Float[Tensor, "joints vertices"], root: Float[Tensor, " vertices"]) -> None:
        super().__init__()
        rows = torch.cat([regressor, root[None]])
        most = int((rows != 0).sum(1).max())
        index = rows.abs().topk(most, dim=1).indices
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("weight", rows.gather(1, index), persistent=False)

    def forward(
        self, vertices: Float[Tensor, "batch vertices 3"]
    ) -> tuple[Float[Tensor, "batch joints 3"], Float[Tensor, "batch 1 3"]]:
        points = mix_rows(vertices, self.index, self.weight)
        return points[:, :-1], points[:, -1:]


class MeshLosses(nn.Module):
    """The weighted terms for one mesh.

    Args:
        joints: Regressor of the body's joints.
        faces: Of the level `config.surface`.
        grid: Cells of the feature map, for `config.clusters`.
        seen_width: Share of the crop's width that the map shows, its middle.
    """

    faces: Tensor
    edges: Tensor
    seen: Tensor

    def __init__(
        self,
        config: MeshLossConfig,
        joints: MeshJoints,
        faces: Int[Tensor, "faces 3"],
        grid: tuple[int, int] = (7, 7),
        seen_width: float = 1.0,
    ) -> None:
        super().__init__()
        self.config, self.joints, self.grid = config, joints, grid
        self.register_buffer("seen", torch.tensor([seen_width, 1.0]), persistent=False)
        self.register_buffer("faces", faces, persistent=False)
        self.register_buffer("edges", loss_edges(faces, each_face=config.each_face), persistent=False)

    def forward(
        self, output: MeshOutput, labels: MeshLabels, epoch: float = math.inf
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The sum of the weighted terms, and the weighted terms.

        Args:
            epoch: How often the data have been seen, with fractions.

        Raises:
            ValueError: The model gives other levels than `config.levels` weighs.
        """
        config = self.config
        if len(config.levels) > len(output.vertices):
            raise ValueError(
                f"{len(config.levels)} mesh levels to compare, the model gives {len(output.vertices)}"
            )
        from_mesh, root = self.joints(output.vertices[-1])
        joints, vertices = output.joints, output.vertices
        if config.centred:
            vertices = tuple(level - root for level in vertices)
            from_mesh = from_mesh - root
            joints = joints - joints[:, list(config.root)].mean(1, keepdim=True)
        terms: dict[str, Tensor] = {}
        for name, weight in (("joints_3d", config.joints_3d), ("joints_2d", config.joints_2d)):
            found = [self._joints(name, x, output.camera, labels) for x in (joints, from_mesh)]
            terms[name] = weight * torch.stack(found).sum()
        each = [
            share * vertices_loss(vertices[i], labels.vertices[i], labels.has_mesh)
            for i, share in enumerate(config.levels)
        ]
        terms["vertices"] = config.vertices * torch.stack(each).sum()
        if config.aligned:
            true_joints, _ = self.joints(labels.vertices[-1])
            found, true = (*vertices[: len(labels.vertices)], from_mesh), (*labels.vertices, true_joints)
            shape = aligned_loss(found, true, labels.has_mesh)
            terms["aligned"] = config.aligned * shape
        terms |= self._surface(vertices, labels)
        if config.clusters and output.clusters is not None:
            places = project_weak(labels.vertices[-1], output.camera.detach())
            weight = config.clusters / (1 + math.exp(config.clusters_after - epoch))
            covered = covered_cells(places / self.seen, self.grid)
            terms["clusters"] = weight * cluster_loss(output.clusters, covered, labels.has_mesh)
        return torch.stack(list(terms.values())).sum(), terms

    def _joints(self, name: str, points: Tensor, camera: Tensor, labels: MeshLabels) -> Float[Tensor, ""]:
        squared = self.config.squared
        if name == "joints_2d":
            return joints_2d_loss(project_weak(points, camera), labels.joints_2d, squared=squared)
        return joints_3d_loss(points, labels.joints_3d, labels.has_3d, squared=squared, root=self.config.root)

    def _surface(self, vertices: tuple[Tensor, ...], labels: MeshLabels) -> dict[str, Tensor]:
        config, has = self.config, labels.has_mesh
        found, true = vertices[config.surface], labels.vertices[config.surface]
        terms = {}
        if config.edges:
            eps = 1e-6 if config.each_face else 1e-8
            terms["edges"] = config.edges * edge_length_loss(found, true, has, self.edges, eps)
        if config.edges_self:
            terms["edges_self"] = config.edges_self * edge_self_loss(found, has, self.edges)
        if config.normals:
            terms["normals"] = config.normals * normal_loss(found, true, has, self.faces)
        return terms
