"""Weights of a pipeline as what is optimised: parts of it, or a LoRA adapter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..formats import Artefact, Provenance, save_lora, write_model_card
from ..pipelines import ATTENTION, add_lora, trainable
from ..storage import replacing_folder


class PipelineWeights:
    """Weights of parts of a pipeline; all else in it is frozen.

    Args:
        pipe: a pipeline of diffusers, whose weights are changed.
        names: of its parts; see `adjointdpm.trainable`.
    """

    def __init__(self, pipe: Any, names: Sequence[str]) -> None:
        self.pipe, self.names = pipe, tuple(names)
        self._hold(trainable(pipe, *names))

    def _hold(self, weights: Sequence[nn.Parameter]) -> None:
        chosen = {id(weight) for weight in weights}
        self.tensors: dict[str, Tensor] = {
            f"{part}.{name}": weight
            for part, module in self.pipe.components.items()
            if isinstance(module, nn.Module)
            for name, weight in module.named_parameters()
            if id(weight) in chosen
        }
        self._start = {name: weight.detach().clone() for name, weight in self.tensors.items()}

    @contextmanager
    def at_start(self) -> Iterator[None]:
        """Let the pipeline be what it was before any update, for the length of the block.

        Without a graph, since one that is made with these weights would be run again with others.
        """
        now = {name: weight.data for name, weight in self.tensors.items()}
        try:
            for name, weight in self.tensors.items():
                weight.data = self._start[name]
            with torch.no_grad():
                yield
        finally:
            for name, weight in self.tensors.items():
                weight.data = now[name]

    def save(
        self,
        folder: str | Path,
        *,
        provenance: Provenance | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Path:
        """Save the components that the parts belong to, as ``from_pretrained`` loads them.

        Args:
            folder: gets a folder for each component, and a model card.
            provenance: that of the pipeline by default.
            settings: how they were trained, for the model card.

        Returns:
            The folder of the first component.
        """
        components = list(dict.fromkeys(name.split(".")[0] for name in self.names))
        lines = []
        for component in components:
            module = getattr(self.pipe, component)
            with replacing_folder(Path(folder) / component) as partial:
                module.save_pretrained(partial)
            loaded = f'type(pipe.{component}).from_pretrained("{component}")'
            lines.append(f"pipe.{component} = {loaded}")
        artefact = Artefact(
            title="Trained weights",
            description=f"The {' and the '.join(components)} of a pipeline, trained further.",
            snippet="\n".join([*lines, 'image = pipe("a picture").images[0]']),
            tags=("text-to-image",),
        )
        trained = {"trained": ", ".join(self.names), **(settings or {})}
        found = provenance or Provenance.of(self.pipe)
        write_model_card(Path(folder), artefact, found, trained)
        return Path(folder) / components[0]


class Adapter(PipelineWeights):
    """A LoRA adapter of a pipeline's UNet or transformer; all else is frozen.

    Args:
        pipe: a pipeline of diffusers, which gets the adapter.
        rank: see `adjointdpm.add_lora`, as for the others.
        lora_alpha: likewise.
        target_modules: likewise.
        seed: of the half of the adapter that is random at the start.
    """

    def __init__(
        self,
        pipe: Any,
        rank: int = 4,
        *,
        lora_alpha: float | None = None,
        target_modules: Sequence[str] = ATTENTION,
        seed: int = 0,
    ) -> None:
        self.pipe = pipe
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            weights = add_lora(pipe, rank, lora_alpha=lora_alpha, target_modules=target_modules)
        self._hold(weights)

    def save(
        self,
        folder: str | Path,
        *,
        provenance: Provenance | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Path:
        """Save the adapter as ``pipe.load_lora_weights`` loads it; see `save_lora`."""
        return save_lora(self.pipe, folder, provenance=provenance, settings=settings)
