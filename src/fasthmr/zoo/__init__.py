"""Every preset by name. A module with presets is one import line here."""

from fasthmr.zoo import camerahmr as camerahmr
from fasthmr.zoo import fasthmr as fasthmr
from fasthmr.zoo import hierarchical as hierarchical
from fasthmr.zoo import hmr as hmr
from fasthmr.zoo import motion as motion
from fasthmr.zoo import tore as tore
from fasthmr.zoo import vitpose as vitpose
from fasthmr.zoo.registry import (
    Preset,
    PublishedCount,
    create_model,
    list_models,
    load_model,
    preset,
    pretrained_file,
    register_preset,
)

__all__ = [
    "Preset",
    "PublishedCount",
    "create_model",
    "list_models",
    "load_model",
    "preset",
    "pretrained_file",
    "register_preset",
]
