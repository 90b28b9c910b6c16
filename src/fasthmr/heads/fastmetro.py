"""FastMETRO's head (arXiv 2207.13820): an encoder and decoder at two widths, joints and vertices as queries.

With a `regressor` only joints are queries and the mesh comes from their tokens; with a `reducer` the image
tokens are fewer (TORE, arXiv 2211.10705). Both are parts of `reduction/`, passed in by the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.heads.mesh_parameters import MeshParametersConfig
from fasthmr.layers.mesh_levels import MeshLevelsConfig, MeshOperators
from fasthmr.layers.query_transformer import QueryTransformerConfig, learned_tokens, sine_positions
from fasthmr.types import MeshOutput


@dataclass(frozen=True, kw_only=True)
class FastMetroHeadConfig:
    """Sizes of a `FastMetroHead`: by default FastMETRO-L for bodies.

    Attributes:
        context_dim: Channels of the feature map.
        grid: Rows and columns of the feature map.
        joints: 14 of a body, 21 of a hand.
        layers: In each half of both transformers: 1, 2 and 3 are S, M and L.
        dims: Widths of the two transformers; `mlp_dims` of their feed-forward networks.
        learned_levels: Steps to finer levels that are learned, from the coarsest on; the others are the
            mesh's own operators. 1 for bodies, 0 for hands and with a regressor.
        parameters: Regresses pose and shape from the second level, or None.
    """

    context_dim: int = 2048
    grid: tuple[int, int] = (7, 7)
    joints: int = 14
    mesh: MeshLevelsConfig = field(default_factory=MeshLevelsConfig)
    layers: int = 3
    dims: tuple[int, int] = (512, 128)
    mlp_dims: tuple[int, int] = (2048, 512)
    heads: int = 8
    dropout: float = 0.1
    learned_levels: int = 1
    parameters: MeshParametersConfig | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.learned_levels < len(self.mesh.vertices):
            raise ValueError(
                f"FastMetroHeadConfig: learned_levels={self.learned_levels} for a mesh of "
                f"{len(self.mesh.vertices)} levels"
            )

    @property
    def token_dim(self) -> int:
        """Width of the joint tokens that a regressor reads."""
        return self.dims[1]

    def build(self, reducer: nn.Module | None = None, regressor: nn.Module | None = None) -> FastMetroHead:
        return FastMetroHead(self, reducer, regressor)


class FastMetroHead(nn.Module):
    """Feature map to camera, joints and a mesh at several levels."""

    position_1: Tensor
    position_2: Tensor

    def __init__(
        self, config: FastMetroHeadConfig, reducer: nn.Module | None, regressor: nn.Module | None
    ) -> None:
        super().__init__()
        self.config = config
        wide, narrow = config.dims
        coarse = config.mesh.vertices[0]
        self.mesh = config.mesh.build()
        self.conv_1x1 = nn.Conv2d(config.context_dim, wide, 1)
        self.reducer, self.regressor = reducer, regressor
        self.transformer_1, self.transformer_2 = (
            QueryTransformerConfig(
                dim=dim, mlp_dim=mlp_dim, layers=config.layers, heads=config.heads, dropout=config.dropout
            ).build()
            for dim, mlp_dim in zip(config.dims, config.mlp_dims, strict=True)
        )
        grid = config.grid if reducer is None else (int(reducer.tokens), 1)  # pyright: ignore[reportArgumentType]
        self.register_buffer("position_1", sine_positions(*grid, wide), persistent=False)
        self.register_buffer("position_2", sine_positions(*grid, narrow), persistent=False)
        self.cam_token_embed = learned_tokens(1, wide)
        self.joint_token_embed = learned_tokens(config.joints, wide)
        self.dim_reduce_dec = nn.Linear(wide, narrow)
        self.cam_predictor = nn.Linear(narrow, 3)
        self.upsamplers = nn.ModuleList()
        if regressor is None:
            self.dim_reduce_enc_cam = nn.Linear(wide, narrow)
            self.dim_reduce_enc_img = nn.Linear(wide, narrow)
            self.vertex_token_embed = learned_tokens(coarse, wide)
            self.xyz_regressor = nn.Linear(narrow, 3)
            levels = config.mesh.vertices
            self.upsamplers.extend(nn.Linear(levels[i], levels[i + 1]) for i in range(config.learned_levels))
        else:
            self.dim_reduce_enc = nn.Linear(wide, narrow)
            self.xyz_regressor_j = nn.Linear(narrow, 3)
        self.parameters_of = (
            None if config.parameters is None else config.parameters.build(config.mesh.vertices[1])
        )

    @property
    def transformers(self) -> list[nn.Module]:
        """What the papers count as the transformer; without `regressor`."""
        return [self.transformer_1, self.transformer_2]

    def set_mesh(self, operators: MeshOperators, template: Tensor | None = None) -> None:
        """Take over the mesh; see `MeshLevels.place`. This head has no template."""
        self.mesh.place(operators)

    @property
    def knows_mesh(self) -> bool:
        """Whether the mesh is there."""
        return self.mesh.known

    def forward(
        self, features: Float[Tensor, "batch channels rows columns"], levels: int | None = None
    ) -> MeshOutput:
        """Camera, joints and vertices.

        Args:
            levels: Mesh levels to give, from the coarsest on; None for all.

        Raises:
            ValueError: The map has another size than the configuration says.
            UsageError: The mesh is not known.
        """
        if tuple(features.shape[-2:]) != self.config.grid:
            raise ValueError(
                f"this head reads maps of {self.config.grid} cells, got {tuple(features.shape[-2:])}"
            )
        reduced = self.conv_1x1(features)
        clusters = None
        if self.reducer is None:
            image = reduced.flatten(2).mT
        else:
            image, clusters = self.reducer(reduced)
        camera = self.cam_token_embed.weight.expand(len(image), 1, -1)
        if self.regressor is None:
            camera, joints, coarse = self._whole(image, camera)
        else:
            camera, joints, coarse = self._by_joints(image, camera)
        vertices = [coarse]
        for i in range(len(self.config.mesh.vertices[:levels]) - 1):
            learned = i < len(self.upsamplers)
            last = vertices[-1]
            vertices.append(self.upsamplers[i](last.mT).mT if learned else self.mesh.up(last, i))
        params = None if self.parameters_of is None else self.parameters_of(vertices[1].detach())
        return MeshOutput(
            camera=camera, joints=joints, vertices=tuple(vertices), params=params, clusters=clusters
        )

    def _whole(self, image: Tensor, camera: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Joints and vertices as queries of both transformers."""
        joints = self.config.joints
        neighbours = self.mesh.neighbours(joints)
        queries = (self.joint_token_embed.weight, self.vertex_token_embed.weight)
        camera, image, points = self.transformer_1(image, camera, queries, self.position_1, neighbours)
        camera, image = self.dim_reduce_enc_cam(camera), self.dim_reduce_enc_img(image)
        points = self.dim_reduce_dec(points)
        camera, _, points = self.transformer_2(image, camera, points, self.position_2, neighbours)
        xyz = self.xyz_regressor(points)
        return self.cam_predictor(camera)[:, 0], xyz[:, :joints], xyz[:, joints:]

    def _by_joints(self, image: Tensor, camera: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Joints alone as queries; the regressor makes the mesh."""
        assert self.regressor is not None
        queries = (self.joint_token_embed.weight,)
        camera, image, body = self.transformer_1(image, camera, queries, self.position_1)
        camera, image = self.dim_reduce_enc(camera), self.dim_reduce_enc(image)
        body = self.dim_reduce_dec(body)
        camera, _, body = self.transformer_2(image, camera, body, self.position_2)
        vertices, _ = self.regressor(body, camera, self.mesh.neighbours())
        return self.cam_predictor(camera)[:, 0], self.xyz_regressor_j(body), vertices
