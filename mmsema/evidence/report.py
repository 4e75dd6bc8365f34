"""What a table's lines say: means and spread over the seeds, what is within the spread of the best, plots."""

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from .store import Line
from .tables import TABLES, Table

NOTE = (
    "Mean over the seeds (least to greatest). *: the best, and every row whose range reaches into that of the best: "
    "these runs cannot tell them apart. Rows with one seed have no spread and are not judged."
)
EFFORT = {"s per iteration": "seconds", "MB": "memory_mb", "M parameters, of the backbone": "backbone_parameters"}


@dataclass
class Spread:
    """One column of one row over its seeds."""

    values: List[float]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    def overlaps(self, other: "Spread") -> bool:
        return max(self.values) >= min(other.values) and max(other.values) >= min(self.values)


def spreads(table: Table, lines: Sequence[Line]) -> Dict[str, Dict[str, Spread]]:
    """For every row that has lines, its columns; the best mean of the first metric comes first."""
    found: Dict[str, Dict[str, Spread]] = {}
    for name in table.rows:
        own = [line for line in lines if line["row"] == name]
        columns = [*table.metrics, *EFFORT.values()]
        if own:
            found[name] = {
                column: Spread([float(line[column]) for line in own])
                for column in columns
                if all(line.get(column) for line in own)
            }
    first = next(iter(table.metrics))
    return dict(sorted(found.items(), key=lambda item: -item[1][first].mean))


def marked(rows: Dict[str, Dict[str, Spread]], metric: str) -> List[str]:
    """The best row by ``metric`` and those that cannot be told from it; only rows with several seeds are judged."""
    several = {name: row[metric] for name, row in rows.items() if len(row[metric].values) > 1}
    if not several:
        return []
    best = max(several.values(), key=lambda spread: spread.mean)
    return [name for name, spread in several.items() if spread.overlaps(best)]


def _number(spread: Spread, digits: int) -> str:
    text = f"{spread.mean:.{digits}f}"
    if len(spread.values) > 1:
        text += f" ({min(spread.values):.{digits}f} to {max(spread.values):.{digits}f})"
    return text


def cells(name: str, lines: Sequence[Line]) -> List[List[str]]:
    """The table's header and rows, as text."""
    table = TABLES[name]
    if table.tests:
        return _scale_cells(name, lines)
    rows = spreads(table, lines)
    stars = {metric: marked(rows, metric) for metric in table.metrics}
    efforts = [title for title, column in EFFORT.items() if any(column in row for row in rows.values())]
    out = [["", "seeds", *table.metrics, *efforts]]
    for row_name, row in rows.items():
        line = [row_name, str(len(row[next(iter(table.metrics))].values))]
        for metric in table.metrics:
            digits = 1 if max(row[metric].values) > 1 else 3  # percent, or a share
            line.append(_number(row[metric], digits) + ("*" if row_name in stars[metric] else ""))
        for title in efforts:
            spread: Optional[Spread] = row.get(EFFORT[title])
            if spread is None:
                line.append("")
            elif title == "MB":
                line.append(f"{max(spread.values):.0f}")
            else:
                line.append(f"{spread.mean:.2f}" if title.startswith("s ") else f"{spread.mean / 1e6:.2f}")
        out.append(line)
    return out


def by_scale(name: str, lines: Sequence[Line]) -> Dict[str, Dict[float, Spread]]:
    """The first metric of every model at every scale of the test pictures; rows are named 'model xSCALE'."""
    metric = next(iter(TABLES[name].metrics))
    curves: Dict[str, Dict[float, Spread]] = {}
    for row_name, row in spreads(TABLES[name], lines).items():
        model, scale = row_name.rsplit(" x", 1)
        curves.setdefault(model, {})[float(scale)] = row[metric]
    return curves


def _scale_cells(name: str, lines: Sequence[Line]) -> List[List[str]]:
    """A row a model, a column a scale; no row is judged."""
    curves = by_scale(name, lines)
    scales = sorted({scale for curve in curves.values() for scale in curve})
    rows = [[model, *(_number(curve[s], 3) if s in curve else "" for s in scales)] for model, curve in curves.items()]
    return [[next(iter(TABLES[name].metrics)), *(f"x{scale:g}" for scale in scales)], *rows]


def markdown(name: str, lines: Sequence[Line]) -> str:
    header, *rows = [[cell.replace("*", "\\*") for cell in line] for line in cells(name, lines)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *rows]) + "\n"


def missing(name: str, lines: Sequence[Line], seeds: Sequence[int]) -> List[str]:
    """The runs that are not there, a line for each seed."""
    there = {(line["row"], line["seed"]) for line in lines}
    out = []
    for seed in seeds:
        rows = [row for row in TABLES[name].rows if (row, str(seed)) not in there]
        if rows:
            out.append(f"seed {seed}: {', '.join(rows) if len(rows) < len(TABLES[name].rows) else 'all'}")
    return out


def plot(name: str, lines: Sequence[Line], path: Path) -> None:
    """The first metric of every row: each seed a ring, the mean a stroke, SEMA's filled; no colours."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    table = TABLES[name]
    metric = next(iter(table.metrics))
    rows = spreads(table, lines)
    figure, axes = pyplot.subplots(figsize=(7, 0.32 * len(rows) + 0.9), dpi=120, layout="constrained")
    for place, (row_name, row) in enumerate(reversed(rows.items())):
        values = row[metric].values
        face = "black" if row_name == "sema" else "white"
        axes.plot([min(values), max(values)], [place, place], "-", color="grey", zorder=1)
        axes.plot(values, [place] * len(values), "o", color="black", markerfacecolor=face, markersize=5)
        axes.plot([row[metric].mean], [place], "|", color="black", markersize=14)
    axes.set(yticks=range(len(rows)), yticklabels=list(reversed(rows)), xlabel=metric, title=table.title)
    axes.grid(axis="x", color="lightgrey", linewidth=0.6)
    figure.savefig(path)
    pyplot.close(figure)


def plot_scales(name: str, lines: Sequence[Line], path: Path) -> None:
    """A curve for every model over the scale of the test pictures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), dpi=120, layout="constrained")
    curves = by_scale(name, lines)
    styles = [(marker, line) for line in ("-", "--") for marker in "o^sDvx"]
    for (model, curve), (marker, line) in zip(sorted(curves.items()), styles, strict=False):
        color, face = ("black", "black") if model == "sema" else ("dimgrey", "white")
        points = [(scale, curve[scale].mean) for scale in sorted(curve)]
        axes.plot(*zip(*points, strict=True), line, marker=marker, color=color, markerfacecolor=face, label=model)
    scales = sorted({scale for curve in curves.values() for scale in curve})
    axes.set(xscale="log", xlabel="size of the test pictures over their own", ylabel=next(iter(TABLES[name].metrics)))
    axes.set_title(TABLES[name].title)
    axes.set_xticks(scales, [f"{scale:g}" for scale in scales])
    axes.minorticks_off()
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(path)
    pyplot.close(figure)
