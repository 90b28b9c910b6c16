"""Picture encoders: `channels`, `strides`, and feature maps finest first."""

from fasthmr.encoders import convvit as convvit
from fasthmr.encoders import efficientnet as efficientnet
from fasthmr.encoders import groupmixformer as groupmixformer
from fasthmr.encoders import hrnet as hrnet
from fasthmr.encoders import resnet as resnet
from fasthmr.encoders import swin as swin
from fasthmr.encoders import vit as vit
from fasthmr.encoders import vmamba as vmamba
from fasthmr.encoders.registry import encoder_config, list_encoders, register_encoder

__all__ = ["encoder_config", "list_encoders", "register_encoder"]
