"""METRO's head (arXiv 2012.09760): joints and vertices as tokens through encoders of decreasing width.

With a `regressor` of `reduction/gtr.py` only joints are tokens and the mesh comes from the last encoder's
hidden state (TORE, arXiv 2211.10705).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.errors import UsageError
from fasthmr.layers.constant import WeightConstant
from fasthmr.layers.mesh_levels import MeshLevelsConfig, MeshOperators
from fasthmr.layers.post_norm import BertLayer
from fasthmr.layers.query_transformer import learned_tokens
from fasthmr.types import MeshOutput

MASKED = 0.01
"""What hidden tokens are set to in masked vertex modelling."""


@dataclass(frozen=True, kw_only=True)
class MetroHeadConfig:
    """Sizes of a `MetroHead`: by default the published one for bodies.

    Attributes:
        context_dim: Channels of the feature map.
        cells: Cells of the feature map that tokens are mixed from; None where every token sees the mean of
            the map (hands).
        widths: What enters the second and third encoder; each encoder has a hidden width of `hidden`.
        layers: In each encoder.
        positions: Rows of the position tables.
        camera_hidden: Width of the camera's hidden layer.
        camera_reads_joints: Whether it reads joints as well as vertices (hands).
        masked_share: Largest share of joints, and of vertices, that is hidden while training.
        unused_words: Words of the BERT tables that published files carry for nothing.
    """

    context_dim: int = 2048
    cells: int | None = 49
    joints: int = 14
    mesh: MeshLevelsConfig = field(default_factory=MeshLevelsConfig)
    widths: tuple[int, ...] = (512, 128)
    hidden: tuple[int, ...] = (1024, 256, 128)
    layers: int = 4
    heads: int = 4
    mlp_dim: int = 3072
    positions: int = 512
    dropout: float = 0.1
    camera_hidden: int = 250
    camera_reads_joints: bool = False
    masked_share: float = 0.3
    unused_words: int = 30522

    def __post_init__(self) -> None:
        if len(self.hidden) != len(self.widths) + 1:
            raise ValueError(
                f"MetroHeadConfig: hidden={self.hidden} is not one more than widths={self.widths}"
            )

    @property
    def token_dim(self) -> int:
        """Width of the joint tokens that a regressor reads."""
        return self.hidden[-1]

    def build(self, regressor: nn.Module | None = None) -> MetroHead:
        return MetroHead(self, regressor)


class TokenEncoder(nn.Module):
    """BERT layers between an embedding and a linear head, with a linear skip beside them."""

    def __init__(self, config: MetroHeadConfig, dim_in: int, dim: int, dim_out: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.position_embeddings = nn.Embedding(config.positions, dim)
        self.img_embedding = nn.Linear(dim_in, dim)
        self.layers = nn.ModuleList(
            BertLayer(dim=dim, heads=config.heads, mlp_dim=config.mlp_dim, dropout=config.dropout)
            for _ in range(config.layers)
        )
        self.cls_head = nn.Linear(dim, dim_out)
        self.residual = nn.Linear(dim_in, dim_out)
        for module in (self.position_embeddings, self.img_embedding, self.cls_head, self.residual):
            nn.init.normal_(module.weight, std=0.02)
        words, width = config.unused_words, dim
        tables = (words + config.positions + 2) * width + 2 * width
        self.unused_published_params = tables + width * width + width

    def forward(
        self, tokens: Float[Tensor, "batch tokens dim_in"] | tuple[Tensor, Tensor]
    ) -> tuple[Float[Tensor, "batch tokens dim_out"], Float[Tensor, "batch tokens dim"]]:
        """What comes out, and the last hidden state before the linear head.

        Args:
            tokens: The tokens, or what `img_embedding` and `residual` make of them.
        """
        if isinstance(tokens, Tensor):
            tokens = self.img_embedding(tokens), self.residual(tokens)
        embedded, skipped = tokens
        x = embedded + self.position_embeddings.weight[: embedded.shape[1]]
        if self.dropout:
            x = F.dropout(x, self.dropout, self.training)
        for layer in self.layers:
            x = layer(x)
        return self.cls_head(x) + skipped, x


class TemplateTokens(nn.Module):
    """Tokens of the first encoder: a place on the body at rest, and a mix of the map's cells."""

    template: Tensor

    def __init__(self, config: MetroHeadConfig, points: int) -> None:
        super().__init__()
        self.points = points
        self.register_buffer("template", torch.zeros(points, 3), persistent=config.mesh.stored)
        self.mix = None if config.cells is None else nn.Conv1d(config.cells, points, 1)
        self._known = False

    def place(self, template: Float[Tensor, "points 3"]) -> None:
        """Take over the places of joints and coarse vertices of the body at rest, in metres about its root.

        Raises:
            UsageError: There are more or fewer than tokens.
        """
        if tuple(template.shape) != (self.points, 3):
            raise UsageError(
                f"the template has {len(template)} points, the model {self.points} tokens; give joints and "
                "coarse vertices of the model's body"
            )
        with torch.no_grad():
            self.template.copy_(template)
        self._known = True

    def tokens(self, features: Float[Tensor, "batch channels *grid"]) -> Float[Tensor, "batch points dim"]:
        """The tokens themselves."""
        self._check()
        if self.mix is None:
            image = features.flatten(2).mean(-1)[:, None].expand(-1, self.points, -1)
        else:
            image = self.mix(features.flatten(2).mT)
        return torch.cat([self.template.expand(len(image), -1, -1), image], dim=-1)

    def forward(
        self, features: Float[Tensor, "batch channels *grid"], *linears: nn.Linear
    ) -> tuple[Float[Tensor, "batch points _"], ...]:
        """Linear images of the tokens.

        Mixing cells and multiplying channels commute, so that where there are more tokens than cells the
        cells are multiplied first: 49 of them instead of 445 tokens.
        """
        self._check()
        cells = 1 if self.mix is None else self.mix.in_channels
        if self.points <= cells:
            tokens = self.tokens(features)
            return tuple(linear(tokens) for linear in linears)
        image = features.flatten(2).mT
        image = image.mean(1, keepdim=True) if self.mix is None else image
        return tuple(self._linear(image, linear) for linear in linears)

    def _linear(self, image: Tensor, linear: nn.Linear) -> Tensor:
        place, weight = linear.weight[:, :3], linear.weight[:, 3:]
        constant = F.linear(self.template.to(weight.dtype), place, linear.bias)
        image = F.linear(image, weight)
        if self.mix is None:
            return constant + image
        assert self.mix.bias is not None
        constant = constant + self.mix.bias[:, None] * weight.sum(1)
        return constant + self.mix.weight[..., 0] @ image

    @property
    def known(self) -> bool:
        """Whether the body at rest is there, placed or loaded with the weights."""
        if self.template.is_meta:
            return True
        self._known = self._known or bool(self.template.any())
        return self._known

    def _check(self) -> None:
        if not self.known:
            raise UsageError(
                "this model starts from its body at rest, which published weight files do not hold: "
                "model.set_mesh(operators, template)"
            )


class LearnedUpsampling(nn.Module):
    """Linear maps along the vertices, level by level; composed to one where only the last level is wanted."""

    def __init__(self, vertices: tuple[int, ...]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(vertices))
        self._constant: WeightConstant[tuple[Tensor, Tensor]] = WeightConstant()

    def train(self, mode: bool = True) -> LearnedUpsampling:
        self._constant.drop()
        return super().train(mode)

    def forward(
        self, coarse: Float[Tensor, "batch coarse 3"], all_levels: bool
    ) -> list[Float[Tensor, "batch _ 3"]]:
        """Every finer level, or only the last."""
        if not all_levels and len(self.steps) > 1 and not torch.is_grad_enabled():
            weight, bias = self._constant.get(
                self._composed, tuple(self.steps.parameters()), training=self.training
            )
            return [F.linear(coarse.mT, weight, bias).mT]
        levels = [coarse]
        for step in self.steps:
            levels.append(step(levels[-1].mT).mT)
        return levels[1:]

    def _composed(self) -> tuple[Tensor, Tensor]:
        steps = cast("list[nn.Linear]", list(self.steps))
        weight, bias = steps[0].weight, steps[0].bias
        for step in steps[1:]:
            weight, bias = step.weight @ weight, F.linear(bias, step.weight, step.bias)
        return weight, bias


class MetroHead(nn.Module):
    """Feature map to camera, joints and a mesh at several levels."""

    def __init__(self, config: MetroHeadConfig, regressor: nn.Module | None) -> None:
        super().__init__()
        self.config = config
        coarse = config.mesh.vertices[0]
        points = config.joints + (coarse if regressor is None else 0)
        if points > config.positions:
            raise ValueError(f"MetroHeadConfig: {points} tokens, but positions for {config.positions}")
        self.mesh = config.mesh.build()
        self.tokens = TemplateTokens(config, points)
        inputs = (3 + config.context_dim, *config.widths, 3)
        self.trans_encoder = nn.ModuleList(
            TokenEncoder(config, a, hidden, b)
            for (a, b), hidden in zip(pairwise(inputs), config.hidden, strict=True)
        )
        self.upsampling = LearnedUpsampling(config.mesh.vertices)
        self.regressor = regressor
        if regressor is None:
            read = points if config.camera_reads_joints else coarse
            self.cam_param_fc = nn.Linear(3, 1)
            self.cam_param_fc2 = nn.Linear(read, config.camera_hidden)
            self.cam_param_fc3 = nn.Linear(config.camera_hidden, 3)
        else:
            self.cam_token_embed = learned_tokens(1, config.token_dim)
            self.cam_predictor = nn.Linear(config.token_dim, 3)

    @property
    def transformers(self) -> list[nn.Module]:
        """What the papers count as the transformer; without `regressor`."""
        return [self.tokens, *self.trans_encoder]

    def set_mesh(self, operators: MeshOperators, template: Tensor | None = None) -> None:
        """Take over the mesh and the body at rest.

        Args:
            template: Joints, then (without a regressor) coarse vertices, in metres about the root.

        Raises:
            UsageError: They are of another body, or there is no template.
        """
        if template is None:
            raise UsageError("METRO starts from its body at rest: set_mesh(operators, template)")
        self.mesh.place(operators)
        self.tokens.place(template)

    @property
    def knows_mesh(self) -> bool:
        """Whether mesh and body at rest are there."""
        return self.mesh.known and self.tokens.known

    def draw_mask(
        self, batch: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch points 1"]:
        """Zero for tokens to hide: a share below `masked_share` of the joints, and of the vertices."""
        mask = torch.ones(batch, self.tokens.points, 1)
        joints = self.config.joints
        for row in mask:
            for part in (row[:joints], row[joints:]):
                share = torch.rand((), generator=generator).item() * self.config.masked_share
                part[torch.randperm(len(part), generator=generator)[: int(share * len(part))]] = 0
        return mask

    def forward(
        self,
        features: Float[Tensor, "batch channels *grid"],
        all_levels: bool | None = None,
        mask: Float[Tensor, "batch points 1"] | None = None,
    ) -> MeshOutput:
        """Camera, joints and vertices.

        Args:
            all_levels: Whether to return levels between the coarsest and the finest; None for: in training.
            mask: Zero for tokens to hide (masked vertex modelling), as `draw_mask` draws it.

        Raises:
            UsageError: The mesh is not known.
        """
        first, *later = cast("list[TokenEncoder]", list(self.trans_encoder))
        if mask is None:
            embedded, skipped = self.tokens(features, first.img_embedding, first.residual)
            x, hidden = first((embedded, skipped))
        else:
            x, hidden = first(self.tokens.tokens(features) * mask + MASKED * (1 - mask))
        for encoder in later:
            x, hidden = encoder(x)
        joints = x[:, : self.config.joints]
        if self.regressor is None:
            coarse = x[:, self.config.joints :]
            read = x if self.config.camera_reads_joints else coarse
            camera = self.cam_param_fc3(self.cam_param_fc2(self.cam_param_fc(read)[..., 0]))
        else:
            token = self.cam_token_embed.weight.expand(len(hidden), 1, -1)
            coarse, token = self.regressor(hidden, token, self.mesh.neighbours())
            camera = self.cam_predictor(token)[:, 0]
        every = self.training if all_levels is None else all_levels
        return MeshOutput(camera=camera, joints=joints, vertices=(coarse, *self.upsampling(coarse, every)))
