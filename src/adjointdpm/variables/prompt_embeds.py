"""The conditioning of one prompt as what is optimised."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from ..formats import PromptEmbeds, Provenance, save_prompt_embeds
from ..pipelines import encode_prompt


class PromptConditioning:
    """What the text encoders make of one prompt, as tensors that can be optimised.

    Args:
        pipe: the pipeline.
        prompt: the prompt it starts from.
        **arguments: further arguments of `adjointdpm.encode_prompt`.
    """

    def __init__(self, pipe: Any, prompt: str, **arguments: Any) -> None:
        self.prompt = prompt
        cond = encode_prompt(pipe, [prompt], **arguments)
        leaves, self._structure = pytree.tree_flatten_with_path(cond)
        self._leaves = [leaf.detach() if isinstance(leaf, Tensor) else leaf for _, leaf in leaves]
        self.tensors: dict[str, Tensor] = {}
        for i, (path, leaf) in enumerate(leaves):
            keys = pytree.keystr(path).strip("[']").split("']['")
            # The negative prompt stays as it is, and so do masks and sizes.
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and "negative" not in keys[0]:
                self._leaves[i] = leaf.detach().clone().requires_grad_()
                self.tensors[".".join(keys)] = self._leaves[i]

    @property
    def cond(self) -> dict[str, Any]:
        """The conditioning of one sample, with the tensors themselves."""
        cond: dict[str, Any] = pytree.tree_unflatten(self._leaves, self._structure)
        return cond

    def encode(self, prompt: list[str], **arguments: Any) -> dict[str, Any]:
        """Return the conditioning in place of that of prompts, as often as there are prompts."""
        batch_size = len(prompt)
        return pytree.tree_map_only(
            Tensor, lambda leaf: leaf.expand(batch_size, *leaf.shape[1:]), self.cond
        )

    def project(self) -> None:
        """Do nothing: it is free."""

    def save(
        self,
        folder: str | Path,
        *,
        provenance: Provenance | None = None,
        settings: Mapping[str, Any] | None = None,
        **described: Any,
    ) -> Path:
        """Save the conditioning; see `save_prompt_embeds`.

        Args:
            folder: where to.
            provenance: the model that it conditions.
            settings: how it was made, for the model card.
            **described: further fields of `PromptEmbeds`, such as ``guidance_scale``.
        """
        cond = pytree.tree_map_only(Tensor, lambda leaf: leaf.detach(), self.cond)
        embeds = PromptEmbeds(
            cond, prompt=self.prompt, provenance=provenance or Provenance(), **described
        )
        return save_prompt_embeds(folder, embeds, settings=settings)
