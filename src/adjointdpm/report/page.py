"""Pages from templates, and numbers as people read them."""

from __future__ import annotations

from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from .pictures import data_uri


def render_page(folder: str, template: str, **values: Any) -> str:
    """Return a page in which nothing is fetched from anywhere.

    Args:
        folder: folder of the template within the package, such as ``"jobs/demo"``.
        template: name of the template; it may extend ``base.html``, which shows a `RunPage` that
            is called ``page``, use the macros of ``parts.html``, and the filters ``data_uri``,
            `percent`, `duration` and `size`.
        **values: what the template shows; text in it is escaped.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("adjointdpm", part) for part in (folder, "report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(data_uri=data_uri, percent=percent, duration=duration, size=size)
    return environment.get_template(template).render(**values)


def percent(probability: float) -> str:
    """Return a probability for reading.

    >>> percent(0.9234), percent(0.00712), percent(0.00001), percent(0.9999)
    ('92 %', '0.7 %', '< 0.1 %', '> 99.9 %')
    """
    if probability < 0.001:
        return "< 0.1 %"
    if probability > 0.999:
        return "> 99.9 %"
    digits = 1 if probability < 0.0095 or probability > 0.9905 else 0
    return f"{100 * probability:.{digits}f} %"


def duration(seconds: float) -> str:
    """Return a duration for reading.

    >>> duration(4.21), duration(42.1), duration(151)
    ('4.2 s', '42 s', '2 min 31 s')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def size(num_bytes: float) -> str:
    """Return a number of bytes for reading.

    >>> size(5 * 2**20), size(3 * 2**29)
    ('5 MiB', '1.50 GiB')
    """
    if num_bytes < 2**30:
        return f"{num_bytes / 2**20:.0f} MiB"
    return f"{num_bytes / 2**30:.2f} GiB"
