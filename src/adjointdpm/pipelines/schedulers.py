"""Another scheduler for a pipeline, by its name."""

from __future__ import annotations

from typing import Any


def scheduler_of(pipe: Any, name: str) -> Any:
    """Return a scheduler with the settings of the pipeline's own, as diffusers changes them.

    Args:
        pipe: the pipeline.
        name: a class of diffusers, such as ``DDIMScheduler``.

    Raises:
        ValueError: diffusers has no such scheduler.
    """
    import diffusers

    known = [each for each in dir(diffusers) if each.endswith("Scheduler")]
    if name not in known:
        raise ValueError(f"diffusers has no scheduler {name!r}; it has {', '.join(known)}")
    return getattr(diffusers, name).from_config(pipe.scheduler.config)
