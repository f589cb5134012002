"""Tables and plots of gradients.json; where a peer is better than ours, the table says so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contestants import ALL_GRAPHS, CALLS, EXACT, METHODS, OURS, PEERS, Method

Results = dict[str, Any]

MARGINS = {"error": 0.5, "float32": 0.5, "time": 0.97, "peak": 0.99}
"""A peer is better where its number is below this share of ours."""
ROUNDING = {"error": 1e-9, "float32": 1e-4}
"""Errors below are rounding, and none of them is better than another."""
TARGETS = ("noise", "encoder_hidden_states", "weights")


TOPICS = {"error": "error", "float32": "error", "time": "time", "peak": "memory"}


@dataclass(frozen=True)
class Note:
    """Where, in one respect, a peer is better than our method that it is measured against."""

    contest: str
    peer: Method
    topic: str
    cells: dict[str, tuple[float, float]]
    """Theirs and ours, by column."""
    equals: list[str]
    """Methods of ours that are no worse there, and no less exact."""

    @property
    def why(self) -> str:
        """The reason, which other cells may share."""
        problem = self.contest.split("/")[0]
        why = self.peer.why.get(self.topic) or self.peer.why.get(f"{self.topic} on {problem}")
        return why or "Not understood: look into it."

    def __str__(self) -> str:
        cells = ", ".join(
            f"{column} {show(column, theirs)} against {show(column, ours)}"
            for column, (theirs, ours) in self.cells.items()
        )
        equals = "; ".join(self.equals) or "none"
        return f"{self.contest}, {self.peer.name}: {cells} of {self.peer.rival}; as good: {equals}"


def numbers(results: Results, contest: str, method: str) -> dict[str, float]:
    """Return a row as comparable numbers, of which less is better."""
    row: dict[str, float] = {}
    errors = results.get("errors", {}).get(contest, {}).get(method, {})
    for kind, column in (("float64", "error"), ("float32", "float32 error")):
        if kind in errors:
            row[column] = max(target["relative_error"] for target in errors[kind].values())
    timed = results.get("time", {}).get(contest, {}).get(method)
    if timed:
        row["time"] = timed["ratio"]
    peaks = results.get("memory", {}).get(contest, {}).get(method, {})
    row.update({f"peak at {calls}": peaks[calls] for calls in sorted(peaks, key=int)})
    return row


def better(column: str, theirs: float, ours: float) -> bool:
    """Return whether a peer's number is better than ours, beyond rounding and noise."""
    kind = column.split()[0]
    return ours > ROUNDING.get(kind, 0.0) and theirs < MARGINS[kind] * ours


def notes_of(results: Results, contest: str) -> Iterator[Note]:
    """Yield where peers are better."""
    rows = {method.name: numbers(results, contest, method.name) for method in METHODS}
    for peer in PEERS:
        theirs, ours = rows[peer.name], rows[peer.rival]
        for topic in dict.fromkeys(TOPICS.values()):
            cells = {
                column: (value, ours[column])
                for column, value in theirs.items()
                if TOPICS[column.split()[0]] == topic
                and column in ours
                and better(column, value, ours[column])
            }
            if cells:
                as_good = [m.name for m in OURS if _holds(rows[m.name], theirs, ["error", *cells])]
                yield Note(contest, peer, topic, cells, as_good)


def _holds(ours: dict[str, float], theirs: dict[str, float], columns: list[str]) -> bool:
    return all(
        column in ours and not better(column, theirs[column], ours[column])
        for column in columns
        if column in theirs
    )


def show(column: str, value: float | None) -> str:
    """Return a number as the tables write it."""
    if value is None:
        return ""
    kind = column.split()[0]
    if kind == "peak":
        return f"{value / 2**20:.3g} MiB" if value < 999.5 * 2**20 else f"{value / 2**30:.3g} GiB"
    return f"{value:.2f}" if kind == "time" else f"{value:.0e}"


def reasons_of(notes: list[Note]) -> list[str]:
    """Return the reasons of notes, each once."""
    return list(dict.fromkeys(note.why for note in notes))


def table(results: Results, contest: str, notes: list[Note]) -> list[str]:
    """Return the markdown table of a contest."""
    reasons = reasons_of(notes)
    peaks = results.get("memory", {}).get(contest, {})
    calls = sorted({key for row in peaks.values() for key in row}, key=int)
    errors = results.get("errors", {}).get(contest, {})
    measured = next(iter(errors.values()), {}).get("float64", {})
    targets = [name for name in TARGETS if name in measured]
    timed = results.get("time", {}).get(contest, {})
    columns = ["time"] if timed else []
    if any("float32" in row for row in errors.values()):
        columns.insert(0, "float32 error")
    columns += [f"peak at {n}" for n in calls]
    head = ["method", *(f"error: {t}" for t in targets), *(["lowest cosine"] if errors else [])]
    head += [*columns, *(["seconds"] if timed else []), "measured against"]
    marks = {
        (note.peer.name, column): reasons.index(note.why) + 1
        for note in notes
        for column in note.cells
        if note.contest == contest
    }
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    rows = [*(method.name for method in METHODS), *CALLS]
    by_name = {method.name: method for method in METHODS}
    for name in rows:
        row = numbers(results, contest, name)
        if not row:
            continue
        exact = errors.get(name, {}).get("float64", {})
        cells = [show("error", exact[t]["relative_error"]) if exact else "" for t in targets]
        if (name, "error") in marks:
            cells[-1] = f"**{cells[-1]}** [{marks[name, 'error']}]"
        if errors:
            cells.append(f"{min(t['cosine'] for t in exact.values()):.4f}" if exact else "")
        for column in columns:
            text = show(column, row.get(column))
            mark = marks.get((name, column))
            cells.append(f"**{text}** [{mark}]" if mark else text)
        if timed:
            cells.append(f"{timed[name]['seconds']:.3f}" if name in timed else "")
        cells.append(by_name[name].rival or "ours" if name in by_name else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


@dataclass(frozen=True)
class Goal:
    """What we set ourselves."""

    text: str
    contest: str
    column: str
    method: str
    over: str
    limit: float
    at_least: bool = False

    def line(self, results: Results) -> str | None:
        """Return the row of the goal, or None where it was not measured."""
        top = numbers(results, self.contest, self.method).get(self.column)
        if top is None:
            return None
        below = numbers(results, self.contest, self.over).get(self.column) if self.over else 1.0
        if below is None:
            return None
        value = top / below
        held = value >= self.limit if self.at_least else value <= self.limit
        sign = "at least" if self.at_least else "at most"
        verdict = "held" if held else "**missed**"
        return f"| {self.contest} | {self.text} | {value:.3f} | {sign} {self.limit} | {verdict} |"


ADJOINT, COARSE = "torchdiffeq odeint_adjoint", "CoarseAdjoint, N/4"
GOALS = [
    goal
    for contest in ("embedded/euler", "embedded/heun", "inputs/euler")
    for goal in (
        Goal("time: Exact / network calls", contest, "time", EXACT, "", 1.03),
        Goal("time: all graphs kept / by hand", contest, "time", ALL_GRAPHS, "by hand", 1.05),
        Goal("time: odeint_adjoint / Exact", contest, "time", ADJOINT, EXACT, 2.0, True),
        Goal("time: odeint_adjoint / CoarseAdjoint", contest, "time", ADJOINT, COARSE, 2.0, True),
        Goal("error: CoarseAdjoint / odeint_adjoint", contest, "error", COARSE, ADJOINT, 1.0),
        Goal("peak at 200: Exact / odeint_adjoint", contest, "peak at 200", EXACT, ADJOINT, 1.0),
        Goal("peak at 1000: Exact / odeint_adjoint", contest, "peak at 1000", EXACT, ADJOINT, 1.0),
    )
]


def markdown(results: Results) -> str:
    """Return all tables, the goals and the notes."""
    contests = sorted({contest for phase in _phases(results) for contest in results[phase]})
    notes = [note for contest in contests for note in notes_of(results, contest)]
    lines = ["# Gradients side by side: the tables", ""]
    lines += ["Written by `benchmarks/gradients.py`; [how to read them](gradients.md).", ""]
    for phase, settings in results["settings"].items():
        described = ", ".join(f"{key} {value}" for key, value in settings["machine"].items())
        calls = "" if phase == "memory" else f"N = {settings['calls']}, "
        lines.append(f"- {phase}: {calls}{described}")
    lines += ["", *(f"![{phase}](gradients_{phase}.png)" for phase in _phases(results))]
    goals = [line for goal in GOALS if (line := goal.line(results))]
    if goals:
        lines += ["", "## Goals we set", "", "| contest | what | measured | goal | |"]
        lines += ["|---|---|---|---|---|", *goals]
    for contest in contests:
        lines += ["", f"## {contest}", "", *table(results, contest, notes)]
    lines += ["", "## Where a peer is better", ""]
    for i, why in enumerate(reasons_of(notes), 1):
        lines += [f"{i}. {why}", *(f"   - {note}" for note in notes if note.why == why)]
    if not notes:
        lines.append("Nowhere.")
    return "\n".join(lines) + "\n"


def _phases(results: Results) -> list[str]:
    return [phase for phase in ("errors", "memory", "time") if phase in results]


def write_report(results: Results, folder: Path) -> None:
    """Write gradients_table.md and a plot for each phase that was measured."""
    import matplotlib as mpl

    mpl.use("Agg")
    (folder / "gradients_table.md").write_text(markdown(results))
    for phase in _phases(results):
        draw = {"errors": plot_errors, "memory": plot_memory, "time": plot_time}[phase]
        draw(dict(sorted(results[phase].items())), folder / f"gradients_{phase}.png")


OUR_COLOUR, PEER_COLOUR = "#3b6fb6", "#d9822b"


def _panels(contests: list[str], height: float, share: bool = False) -> tuple[Any, list[Any]]:
    import matplotlib.pyplot as plt

    rows = (len(contests) + 1) // 2
    figure, axes = plt.subplots(
        rows, 2, figsize=(12, height * rows), layout="constrained", squeeze=False, sharey=share
    )
    flat = list(axes.flat)
    for axis in flat[len(contests) :]:
        axis.set_visible(False)
    for axis, contest in zip(flat, contests, strict=False):
        axis.set_title(contest)
    return figure, flat


def _bars(axis: Any, values: dict[str, float], labels: dict[str, str]) -> None:
    """Draw one bar for each method, ours in blue and peers in orange."""
    ours = {method.name for method in OURS}
    values = {method.name: values[method.name] for method in METHODS if method.name in values}
    colours = [OUR_COLOUR if name in ours else PEER_COLOUR for name in values]
    bars = axis.barh(list(values), list(values.values()), color=colours)
    axis.bar_label(bars, [labels[name] for name in values], padding=3, fontsize=8)
    axis.tick_params(axis="y", labelsize=8)
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)


def plot_errors(errors: Results, path: Path) -> None:
    """Draw the largest relative error over the targets, with the lowest cosine beside it."""
    figure, axes = _panels(list(errors), 4.6)
    for axis, contest in zip(axes, errors, strict=False):
        cells = {name: row["float64"].values() for name, row in errors[contest].items()}
        values = {n: max(max(t["relative_error"] for t in c), 1e-16) for n, c in cells.items()}
        cosines = {name: f"{min(t['cosine'] for t in c):.4f}" for name, c in cells.items()}
        _bars(axis, values, cosines)
        axis.set(xscale="log", xlim=(1e-17, 1e3), xlabel="relative error (beside it: cosine)")
    figure.suptitle("Error against backpropagation in float64: ours blue, peers orange")
    figure.savefig(path, dpi=100)


def plot_time(times: Results, path: Path) -> None:
    """Draw times over those of the bare network calls."""
    figure, axes = _panels(list(times), 4.6)
    for axis, contest in zip(axes, times, strict=False):
        rows = {n: row for n, row in times[contest].items() if n not in CALLS}
        values = {name: row["ratio"] for name, row in rows.items()}
        _bars(axis, values, {name: f"{value:.2f}" for name, value in values.items()})
        axis.axvline(1.0, color="black", linewidth=1)
        axis.set_xlabel("time / the network calls of an exact gradient")
    figure.suptitle("Time of one gradient: ours blue, peers orange")
    figure.savefig(path, dpi=100)


def plot_memory(memory: Results, path: Path) -> None:
    """Draw peaks against the number of network calls."""
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, axes = _panels(list(memory), 5.2)
    styles = {method.name: _style(method, i) for i, method in enumerate(METHODS)}
    handles: dict[str, Any] = {}
    for axis, contest in zip(axes, memory, strict=False):
        for name, style in styles.items():
            peaks = memory[contest].get(name, {})
            if peaks:
                points = sorted((int(n), peak / 2**20) for n, peak in peaks.items())
                (handles[name],) = axis.plot(*zip(*points, strict=True), label=name, **style)
        for peak in list(memory[contest].get("network calls", {}).values())[:1]:
            axis.axhline(peak / 2**20, color="black", linewidth=1, linestyle=":")
        axis.set(xscale="log", yscale="log", xlabel="network calls of the sampler", ylabel="MiB")
        calls = sorted({int(n) for peaks in memory[contest].values() for n in peaks})
        axis.set_xticks(calls, [str(n) for n in calls])
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Peak memory: ours solid, peers dashed; dotted: one call and its gradients")
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=100)


def _style(method: Method, index: int) -> dict[str, Any]:
    import matplotlib as mpl

    position = index if method in OURS else index - len(OURS)
    return {
        "color": mpl.colormaps["tab20"]((2 * position + position // 10) % 20),
        "linestyle": "--" if method.rival else "-",
        "marker": "osD^vP*X<>p"[position % 11],
        "markersize": 5,
        "markerfacecolor": "white" if method.rival else None,
        "linewidth": 1.3,
        "alpha": 0.85,
    }
