"""Coefficients and times of a plan as tensors that receive gradients."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..recompute import writes


@dataclass(frozen=True, eq=False)
class PlanVariables:
    """The tensors that a plan was made of.

    Args:
        table: coefficients, of the plan's shape; None where they are constants.
        timesteps: times, one for each call; None where they are constants.
        versions: of both, when the plan was made.
    """

    table: Tensor | None = None
    timesteps: Tensor | None = None
    versions: tuple[int, ...] = ()

    @classmethod
    def of(cls, table: Tensor | None, timesteps: Tensor | None) -> PlanVariables:
        """Return those of the tensors that require a gradient."""
        table = table if table is not None and table.requires_grad else None
        timesteps = timesteps if timesteps is not None and timesteps.requires_grad else None
        versions = tuple(writes(t for t in (table, timesteps) if t is not None))
        return cls(table, timesteps, versions)

    def __bool__(self) -> bool:
        """Return whether anything of the plan receives a gradient."""
        return bool(self.versions)

    def refuse_changes(self) -> None:
        """Raise RuntimeError where a tensor was changed in place: the plan has the old values."""
        present = tuple(writes(t for t in (self.table, self.timesteps) if t is not None))
        if present != self.versions:
            raise RuntimeError(
                "the table or the timesteps of the plan were changed in place since the plan was "
                "made, which holds the values of then. Make it anew after every step of an "
                "optimiser: sampler.plan = plan.with_tensors(table=table)"
            )


NO_VARIABLES = PlanVariables()
"""Those of a plan of constants."""
