"""Weights of a pipeline as what is optimised: parts of it, or a LoRA adapter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..formats import Artefact, Provenance, check_saves_lora, save_lora, write_model_card
from ..pipelines import ATTENTION, add_lora, shard, trainable
from ..sharded import as_saved, is_sharded, reshard
from ..storage import replacing_folder


class PipelineWeights:
    """Weights of parts of a pipeline; all else in it is frozen.

    Args:
        pipe: a pipeline of diffusers, whose weights are changed.
        names: of its parts; see `adjointdpm.trainable`.
        fully_shard: spread the weights over the processes; see `adjointdpm.shard`.
    """

    def __init__(self, pipe: Any, names: Sequence[str], *, fully_shard: bool = False) -> None:
        self.pipe, self.names = pipe, tuple(names)
        trainable(pipe, *names)
        self._hold(fully_shard)

    def _hold(self, fully_shard: bool) -> None:
        """Take what requires grad for the weights to optimise."""
        if fully_shard:
            shard(self.pipe)
        self.tensors: dict[str, Tensor] = {
            f"{part}.{name}": weight
            for part, module in self.pipe.components.items()
            if isinstance(module, nn.Module)
            for name, weight in module.named_parameters()
            if weight.requires_grad
        }
        self._start = {name: weight.detach().clone() for name, weight in self.tensors.items()}

    @contextmanager
    def at_start(self) -> Iterator[None]:
        """Let the pipeline be what it was before any update, for the length of the block.

        Without a graph, since one that is made with these weights would be run again with others.
        """
        # FSDP gathers from the memory of sharded weights, so that theirs is written into.
        now = {
            name: weight.detach().clone() if is_sharded(weight) else weight.data
            for name, weight in self.tensors.items()
        }
        try:
            self._set(self._start)
            with torch.no_grad():
                yield
        finally:
            self._set(now)

    @torch.no_grad()
    def _set(self, values: Mapping[str, Tensor]) -> None:
        for name, weight in self.tensors.items():
            if is_sharded(weight):
                weight.copy_(values[name])
            else:
                weight.data = values[name]
        for module in self.pipe.components.values():
            if isinstance(module, nn.Module):
                reshard(module)

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
            with replacing_folder(Path(folder) / component) as partial, as_saved(module):
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
        fully_shard: as for the others.
    """

    def __init__(
        self,
        pipe: Any,
        rank: int = 4,
        *,
        lora_alpha: float | None = None,
        target_modules: Sequence[str] = ATTENTION,
        seed: int = 0,
        fully_shard: bool = False,
    ) -> None:
        check_saves_lora(pipe)  # before hours of training
        self.pipe = pipe
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            add_lora(pipe, rank, lora_alpha=lora_alpha, target_modules=target_modules)
        self._hold(fully_shard)

    def save(
        self,
        folder: str | Path,
        *,
        provenance: Provenance | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Path:
        """Save the adapter as ``pipe.load_lora_weights`` loads it; see `save_lora`."""
        return save_lora(self.pipe, folder, provenance=provenance, settings=settings)
