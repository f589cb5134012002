"""What several machines are good for."""

from __future__ import annotations

from .writing import read, table


def scaling_workers(name: str) -> str:
    """Write the table of how many workers are worth their place in training a network."""
    scaling = read("scaling")
    rows = [
        [
            kind,
            f"{row['seconds']:.2f} s",
            *[_count(row[link]["workers"]) for link in scaling["links"]],
        ]
        for kind, row in scaling["on_paper"]["training"][name].items()
    ]
    return table(["update", "alone", *scaling["links"]], rows)


def scaling_pictures(name: str) -> str:
    """Write the table of how many pictures a worker needs to be worth its place among many."""
    scaling = read("scaling")
    rows = [
        [kind, *[_count(row[link]["pictures"], 1000) for link in scaling["links"]]]
        for kind, row in scaling["on_paper"]["training"][name].items()
    ]
    return table(["update", *scaling["links"]], rows)


def scaling_audits() -> str:
    """Write the table of what audits take."""
    rows = [
        [
            name,
            f"{row['seconds_per_update']:.3g} s",
            f"{1e3 * row['driver_seconds_per_update']:.2g} ms",
            _count(int(row["workers"])),
            f"{row['worker_hours_per_million']:,.0f}",
            f"{row['simulated_efficiency']:.1%}",
        ]
        for name, row in read("scaling")["on_paper"]["audit"].items()
    ]
    head = ["model", "update of 8 pictures", "of it the driver's", "workers at most"]
    return table([*head, "worker hours for a million", "efficiency of 16, simulated"], rows)


def _count(number: int, most: int = 2**20) -> str:
    return f"over {most:,}" if number >= most else f"{number:,}"
