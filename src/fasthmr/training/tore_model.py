"""What the recipe `tore` trains: its settings, and the model that they ask for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import torch
from torch import nn

from fasthmr.data.metro_tsv import Kind
from fasthmr.encoders.convvit import ConvViT, ConvViTConfig
from fasthmr.encoders.efficientnet import EfficientNetConfig
from fasthmr.encoders.registry import EncoderConfig, encoder_config
from fasthmr.errors import UsageError
from fasthmr.heads.fastmetro import FastMetroHeadConfig
from fasthmr.heads.mesh_parameters import MeshParametersConfig
from fasthmr.heads.metro import MetroHeadConfig
from fasthmr.layers.embedding import resize_pos_embed
from fasthmr.models.keypoint_hmr import KeypointHMR
from fasthmr.models.mesh import MeshModel, MeshModelConfig, mesh_operators, rest_template
from fasthmr.reduction.gtr import GCNRegressorConfig, MLPRegressorConfig, NSRConfig
from fasthmr.reduction.itp import ITPConfig
from fasthmr.reduction.token_learner import TokenLearnerConfig
from fasthmr.training.mesh_subject import MeshSubject
from fasthmr.zoo import create_model, load_model

OWN_TRUNKS = ("fasthmr_s", "fasthmr_m")
"""Presets whose encoder, trained on people, can stand in for a CNN.

For bodies it stays as it is; for hands it is a start.
"""

_HAND_SIDE = 112

NARROW = EfficientNetConfig(
    stages=((1, 3, 2, 2, 16), (2, 3, 2, 4, 32), (3, 3, 2, 4, 64)),
    stem=16,
    features=256,
    drop_connect=0.0,
    image_size=(112, 112),
)
"""A small EfficientNet with a map of 7 x 7 cells."""


@dataclass(frozen=True, kw_only=True)
class ToreConfig:
    """Settings of the recipe.

    Attributes:
        out: Folder for the checkpoint and, at the end, `model.safetensors`.
        data: Folder of rendered shards (body) or of drawn hands; missing hands are drawn first. Or a data set
            in METRO's files, by its .yaml or .img.tsv.
        validation: The same for people or hands that are not trained on.
        body: SMPL or MANO file that poses and shapes of METRO's files mean; None for the free body or hand.
        start: Weights of the same model to start from: of another run, or published and imported.
        mesh: Hierarchy of that body: METRO's mesh_downsampling.npz, imported with its regressor of joints, or
            mano_downsampling.npz.
        maps: Folder for what a trunk that stays as it is sees; runs with the same data and trunk share it.
        trunk: "fasthmr_s" or "fasthmr_m" (trained on people; stays as it is for bodies and is a start for
            hands), "narrow", or a CNN such as "resnet50".
        regressor: What makes the mesh from joint tokens (GTR); "none" for vertex tokens throughout.
        tokens: How image tokens are reduced to a share `keep_ratio`.
        parameters: Read pose and shape off FastMETRO's mesh of a body, too.
        layers: Of each half of each transformer: 1, 2 and 3 are S, M and L.
        width: Of the first transformer: 512 in the papers.
        guide: Weight of joints and surface, read from the map of a trunk that learns and left out of the
            finished model (`TrunkGuide`); without them a trunk from scratch stands still. 0 for none.
        aligned: Weight of the mesh's difference from the true one turned onto it. Hands seen from any side
            need it: where turns cannot be told apart their mean is a stick.
        surface_terms: Compare edges and normals too, where the released code of the family does.
        samples: Records, or stored maps, to train on.
        validated: Samples to measure on while training.
        learning_rate: The highest of one cycle; the papers' is 1e-4 for much longer trainings.
    """

    out: Path
    data: Path
    validation: Path
    body: Path | None = None
    mesh: Path | None = None
    start: Path | None = None
    maps: Path | None = None
    kind: Kind = "body"
    trunk: str = "fasthmr_s"
    head: Literal["fastmetro", "metro"] = "fastmetro"
    regressor: Literal["none", "nsr", "mlp", "gcn"] = "nsr"
    tokens: Literal["none", "itp", "token_learner"] = "none"
    keep_ratio: float = 0.8
    parameters: bool = False
    layers: int = 1
    width: int = 128
    heads: int = 4
    dropout: float = 0.0
    guide: float = 30.0
    aligned: float = 0.0
    surface_terms: bool = False
    samples: int = 16_384
    validated: int = 256
    steps: int = 3000
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    clip: float = 1.0
    seed: int = 88
    checkpoint_every: int = 200
    report_every: int = 1000

    def __post_init__(self) -> None:
        if self.parameters and (self.kind == "hand" or self.head == "metro"):
            raise UsageError("parameters are read by head 'fastmetro' off bodies")
        if (self.body is None) != (self.mesh is None):
            raise UsageError("body and mesh belong together: a body or hand of your own, and its hierarchy")
        kinds = {is_data_set(self.data), is_data_set(self.validation)}
        if len(kinds) == 2:
            raise UsageError("data and validation must both be data sets in METRO's files, or both folders")
        if self.reads_files and self.trunk in OWN_TRUNKS:
            raise UsageError(
                f"trunk '{self.trunk}' reads stored maps of rendered people; with METRO's files use a CNN"
            )
        if self.body is not None and not self.reads_files:
            raise UsageError(f"body {self.body} is for METRO's files; rendered people have the free body")
        if self.samples < 1 or self.validated < 1:
            raise UsageError(f"samples={self.samples} and validated={self.validated} must be positive")

    @property
    def reads_files(self) -> bool:
        """Whether the samples are those of METRO's files."""
        return is_data_set(self.data)


def is_data_set(path: Path) -> bool:
    """Whether a path names a data set in METRO's files rather than a folder."""
    return path.suffix in (".yaml", ".yml", ".tsv")


def model_config(config: ToreConfig, subject: MeshSubject) -> MeshModelConfig:
    """The model that a run trains, with its mesh stored beside the weights.

    Raises:
        ValueError: The parts do not go together.
    """
    encoder = trunk_config(config.trunk)
    if config.kind == "hand" and isinstance(encoder, ConvViTConfig):
        encoder = replace(encoder, image_size=(_HAND_SIDE, _HAND_SIDE))
    with torch.device("meta"):
        built = encoder.build()
    height, width = (side // built.strides[-1] for side in encoder.image_size)
    levels = mesh_operators(subject.hierarchy).config(stored=config.body is None)  # licensed ones stay out
    joints, narrow = len(subject.regressor) - 1, config.width // 2
    channels = built.channels[-1]
    if config.head == "metro":
        head = MetroHeadConfig(
            context_dim=channels,
            cells=height * width,
            joints=joints,
            mesh=levels,
            widths=(config.width, narrow),
            hidden=(2 * config.width, config.width, narrow),
            layers=config.layers,
            heads=config.heads,
            mlp_dim=4 * config.width,
            positions=joints + levels.vertices[0],
            dropout=config.dropout,
            unused_words=0,
        )
    else:
        head = FastMetroHeadConfig(
            context_dim=channels,
            grid=(height, width),
            joints=joints,
            mesh=levels,
            layers=config.layers,
            dims=(config.width, narrow),
            mlp_dims=(4 * config.width, 4 * narrow),
            heads=config.heads,
            dropout=config.dropout,
            learned_levels=int(config.regressor == "none" and config.kind == "body"),
            parameters=MeshParametersConfig(hidden=2 * config.width) if config.parameters else None,
        )
    transformer = {"mlp_dim": 4 * narrow, "layers": config.layers, "heads": config.heads}
    regressor = {
        "none": None,
        "nsr": NSRConfig(dim=narrow, dropout=config.dropout, **transformer),
        "mlp": MLPRegressorConfig(dim=narrow),
        "gcn": GCNRegressorConfig(dim=narrow),
    }[config.regressor]
    tokens = {
        "none": None,
        "itp": ITPConfig(keep_ratio=config.keep_ratio),
        "token_learner": TokenLearnerConfig(keep_ratio=config.keep_ratio),
    }[config.tokens]
    # As rendered people, and METRO's files and drawn hands, are cut.
    crop = "hmr2" if config.kind == "body" and not config.reads_files else "metro"
    return MeshModelConfig(encoder=encoder, head=head, tokens=tokens, regressor=regressor, crop=crop)


def trunk_config(name: str) -> EncoderConfig:
    """An encoder by the name that the recipe takes.

    Raises:
        UsageError: There is none of that name.
    """
    if name in OWN_TRUNKS:
        return create_model(name).config.encoder  # pyright: ignore[reportReturnType, reportAttributeAccessIssue]
    return NARROW if name == "narrow" else encoder_config(name)


def start_from(encoder: nn.Module, name: str) -> None:
    """Give an encoder the weights of a preset, positions interpolated to another size of picture."""
    trained = cast(KeypointHMR, create_model(name, pretrained=True)).encoder
    fitted = cast(ConvViT, encoder)
    state = trained.state_dict()
    state["pos_embed"] = resize_pos_embed(state["pos_embed"], trained.grid, fitted.grid)
    fitted.load_state_dict(state)


def continue_from(model: MeshModel, path: Path) -> None:
    """Give a model the weights of a file.

    Raises:
        UsageError: The file holds another model; says what differs.
    """
    found = load_model(path)
    if not isinstance(found, MeshModel):
        raise UsageError(f"start {path} holds a {type(found).__name__}, which this recipe does not train")
    for part in ("encoder", "head", "tokens", "regressor"):
        there, wanted = getattr(found.config, part), getattr(model.config, part)
        if there != wanted:
            raise UsageError(f"start {path} has {part} {there}; the settings ask for {wanted}")
    model.load_state_dict(found.state_dict())


def set_rest_mesh(model: MeshModel, subject: MeshSubject) -> None:
    """Give a model the mesh of the subject, and METRO its joints and coarse vertices at rest."""
    rest = subject.body(subject.body.rest_params(1)).vertices
    points, root = subject.joints(fitted=False)(rest)
    coarse = subject.hierarchy.downsample(rest)[0]
    coarse = coarse if model.config.regressor is None else coarse[:0]
    about_x = torch.tensor([1.0, -1.0, -1.0])  # as the camera sees a body that stands upright
    template = rest_template(points[0], coarse, root[0, 0]) * about_x
    model.set_mesh(mesh_operators(subject.hierarchy), template)
