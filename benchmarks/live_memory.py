"""The counter of the package, under the name that the benchmarks know it by."""

from adjointdpm.memory.measure import LiveMemory, peak_bytes, peak_on

__all__ = ["LiveMemory", "peak_bytes", "peak_on"]
