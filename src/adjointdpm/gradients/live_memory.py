"""The memory that tensors take, counted by the library's own means."""

from adjointdpm.gradients.memory import LiveMemory, peak_bytes

__all__ = ["LiveMemory", "peak_bytes"]
