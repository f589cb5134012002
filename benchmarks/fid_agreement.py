"""Whether FID, KID and Inception-v3 here are those of pytorch-fid, clean-fid and torch-fidelity.

    pip install --no-deps --target PEERS pytorch-fid==0.3.0 clean-fid==0.1.35 torch-fidelity==0.4.0
    python benchmarks/fid_agreement.py --peers PEERS

Their functions run on the same features, and torch-fidelity's Inception-v3 with the same random
weights: the trained ones are not needed. Modules of theirs are imported one by one, with empty ones
in the place of torchvision and other imports that these functions do not use. Results go to
fid_agreement.json in the output directory; ``architecture`` in it is a hash of all names and shapes
of weights, which a test compares.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import sys
import tempfile
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from stamp import stamp
from torch import Tensor, nn

from adjointdpm.evaluation import FeatureStatistics, statistics_distance
from adjointdpm.features import inception_v3_of_fid, to_inception

UNUSED = ("torchvision", "torchvision.transforms", "requests")


def load_peers(folder: Path) -> dict[str, Any]:
    """Return the modules of the peers that are compared with."""
    importlib.import_module("torchmetrics.image.kid")  # first: it would import them whole
    sys.path.insert(0, str(folder))
    for name in UNUSED:
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = _Empty(name)
    for package in ("torch_fidelity", "cleanfid"):  # without what their own __init__ imports
        module = types.ModuleType(package)
        module.__path__ = [str(folder / package)]
        sys.modules[package] = module
    return {
        "pytorch-fid": importlib.import_module("pytorch_fid.fid_score"),
        "clean-fid": importlib.import_module("cleanfid.fid"),
        "resize": importlib.import_module("cleanfid.resize"),
        "torch-fidelity": importlib.import_module("torch_fidelity.feature_extractor_inceptionv3"),
    }


class _Empty(types.ModuleType):
    """A module that has whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (nn.Module,), {}) if name[0].isupper() else _Empty(name)


def architecture(state: Mapping[str, Tensor]) -> str:
    """Return a hash of the names and shapes of weights, without classifier and counters."""
    kept = {
        name: list(value.shape)
        for name, value in state.items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    return hashlib.sha256(json.dumps(sorted(kept.items())).encode()).hexdigest()


def random_inception(module: Any) -> nn.Module:
    """Return torch-fidelity's network with random weights and statistics."""
    cls = module.FeatureExtractorInceptionV3
    module.load_state_dict_from_url = lambda *_, **__: {}
    cls.load_state_dict, kept = lambda *_: None, cls.load_state_dict
    network = cls("inception-v3-compat", ["2048"])
    cls.load_state_dict = kept
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 2)
            part.weight.data.uniform_(0.5, 2)
            part.bias.data.normal_(0, 0.1)
    return network.eval()


def compare_features(module: Any) -> dict[str, Any]:
    """Compare the features of 8 random pictures."""
    theirs = random_inception(module)
    images = torch.randint(0, 256, (8, 3, 40, 52), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file({name: value.contiguous() for name, value in theirs.state_dict().items()}, path)
        ours = inception_v3_of_fid(path, "legacy_tensorflow")
    with torch.no_grad():
        reference, found = theirs(images)[0], ours.vectors(images / 255)
    return {
        "architecture": architecture(theirs.state_dict()),
        "relative_difference_of_features": float((found - reference).norm() / reference.norm()),
    }


def compare_resizing(module: Any) -> dict[str, float]:
    """Compare pictures of 32 to 512 pixels at 299 x 299, in units of one of 255 levels."""
    largest: dict[str, float] = {}
    for mode in ("clean", "legacy_pytorch"):
        resize = module.build_resizer(mode)
        for side in (32, 64, 299, 512):
            image = torch.randint(0, 256, (3, side, side))
            theirs = torch.from_numpy(resize(image.permute(1, 2, 0).numpy().astype(np.uint8)))
            ours = to_inception(image[None] / 255, mode)[0].permute(1, 2, 0)
            ours = 128 * ours + 128 if mode == "clean" else 127.5 * (ours + 1)
            difference = float((ours - theirs).abs().max())
            largest[mode] = max(largest.get(mode, 0.0), difference)
    return largest


def compare_distances(peers: Mapping[str, Any], count: int, size: int) -> dict[str, float]:
    """Compare FID and KID of correlated features, as large as those of Inception-v3."""
    mix = torch.randn(size, size, dtype=torch.float64) / size**0.5
    sets = [
        (torch.randn(count, size, dtype=torch.float64) @ mix).relu() * scale for scale in (0.4, 0.5)
    ]
    first, second = (FeatureStatistics.of(each) for each in sets)
    ours = statistics_distance(first, second, normalize=False, subset_size=count, num_subsets=1)
    arrays = [each.numpy() for part in (first, second) for each in (part.mean, part.covariance)]
    fids = {
        "pytorch-fid": peers["pytorch-fid"].calculate_frechet_distance(*arrays),
        "clean-fid": peers["clean-fid"].frechet_distance(*arrays),
    }
    kid = peers["clean-fid"].kernel_distance(
        *(each.numpy() for each in sets), num_subsets=1, max_subset_size=count
    )
    return {
        "FID": ours.fid,
        **{f"FID, {name}": float(value) for name, value in fids.items()},
        "KID": float(ours.kid or 0),
        "KID, clean-fid": kid,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--num_features", type=int, default=512)
    parser.add_argument("--num_pictures", type=int, default=2000)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    peers = load_peers(options.peers)
    result = {
        **stamp(),
        "num_features": options.num_features,
        "num_pictures": options.num_pictures,
        "distances": compare_distances(peers, options.num_pictures, options.num_features),
        "largest_difference_after_resizing_of_255": compare_resizing(peers["resize"]),
        **compare_features(peers["torch-fidelity"]),
    }
    options.output_dir.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1)
    print(text)
    (options.output_dir / "fid_agreement.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
