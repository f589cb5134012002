"""What the classes of ImageNet-1k are called, from a package that carries their names."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

NUM_CLASSES = 1000


def imagenet_labels() -> list[str]:
    """Return the names of the 1,000 classes of ImageNet-1k, by index.

    They are WordNet's, several for a class and separated by commas, such as ``tabby, tabby cat``.
    Two classes are called ``crane``, the bird (134) and the machine (517). The names are read from
    files of timm, whose code is not run: it would import torchvision.

    Raises:
        ImportError: timm is not installed.
    """
    spec = find_spec("timm")
    if spec is None or spec.origin is None:
        raise ImportError(
            "the names of ImageNet's classes are in files of timm: pip install --no-deps timm",
            name="timm",
        )
    folder = Path(spec.origin).parent / "data" / "_info"
    lines = (folder / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8").splitlines()
    names = dict(line.split("\t", 1) for line in lines)
    synsets = (folder / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
    return [names[synset] for synset in synsets]
