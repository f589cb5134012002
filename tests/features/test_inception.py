"""Inception-v3 has the weights and sees the pictures that FID was defined with."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from adjointdpm.assets import load_feature_network
from adjointdpm.features import inception_v3, to_inception

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from fid_agreement import architecture


def test_weights_have_the_names_and_shapes_of_torch_fidelity() -> None:
    with torch.device("meta"):
        network = inception_v3()
    recorded = json.loads(
        (Path(__file__).parents[2] / "docs/benchmarks/fid_agreement.json").read_text()
    )
    assert architecture(network.state_dict()) == recorded["architecture"]
    x = torch.empty(2, 3, 299, 299, device="meta")
    assert network(x).shape == (2, 2048, 8, 8)


def test_weights_are_loaded_from_safetensors_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = inception_v3().state_dict()
    state["fc.weight"], state["fc.bias"] = torch.zeros(1008, 2048), torch.zeros(1008)
    path = tmp_path / "inception.safetensors"
    save_file(state, path)
    network = load_feature_network("inception-v3", weights=path)
    assert network.name == "Inception-v3 (2015-12-05, clean)"
    assert not any(weight.requires_grad for weight in network.parameters())
    with torch.no_grad():
        assert network.vectors(torch.rand(1, 3, 20, 24)).shape == (1, 2048)
    save_file({"fc.bias": torch.zeros(1008)}, path)
    with pytest.raises(ValueError, match="does not hold the weights"):
        load_feature_network("inception-v3", weights=path)
    with pytest.raises(ValueError, match=r"benchmarks/convert\.py"):
        load_feature_network("inception-v3")


@pytest.mark.parametrize("shape", [(32, 32), (299, 299), (400, 350)])
def test_clean_resizing_is_pillows_bicubic_on_floats(shape: tuple[int, int]) -> None:
    pixels = torch.randint(0, 256, (3, *shape), generator=torch.Generator().manual_seed(0))
    channels = [
        np.asarray(Image.fromarray(c.numpy().astype(np.float32)).resize((299, 299), Image.BICUBIC))
        for c in pixels
    ]
    expected = (torch.from_numpy(np.stack(channels)).clamp(0, 255) - 128) / 128
    assert torch.allclose(to_inception(pixels[None] / 255)[0], expected, atol=5e-5)


def test_tensorflow_resizing_has_pixels_at_their_corners() -> None:
    """A ramp stays one, from its first pixel on, and ends flat in its last."""
    ramp = torch.arange(8.0).expand(3, 4, 8) / 255
    found = 128 * to_inception(ramp[None], "legacy_tensorflow")[0, 0, 0] + 128
    expected = (torch.arange(299) * (8 / 299)).clamp(max=7)
    assert torch.allclose(found, expected, atol=1e-4)


def test_unknown_resizing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="legacy_pytorch"):
        load_feature_network("inception-v3", weights=tmp_path, resizing="area")  # type: ignore[arg-type]
