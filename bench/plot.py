"""Line plots as SVG: small enough to commit, the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Line:
    label: str
    points: Sequence[tuple[float, float]]


def save_lines(
    path: Path, *, title: str, x_label: str, y_label: str, lines: Sequence[Line], log_x: bool = False
) -> None:
    figure, axes = _pyplot().subplots(figsize=(7, 4))
    for line in lines:
        axes.plot(*zip(*line.points, strict=True), marker="o", label=line.label)
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    if log_x:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.xaxis.set_minor_formatter(lambda value, _: f"{value:,.0f}" if f"{value:.0e}"[0] in "25" else "")
    axes.grid(visible=True, alpha=0.3)
    # Curves that spread over a logarithmic axis leave no corner free.
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5)) if log_x else axes.legend()
    _save(figure, path)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "memory-service", "svg.fonttype": "none"})
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    _pyplot().close(figure)


@dataclass(frozen=True, slots=True)
class Bars:
    label: str
    values: Sequence[tuple[str, float]]


def save_bars(path: Path, *, title: str, x_label: str, groups: Sequence[Bars]) -> None:
    """Horizontal bars, the same names in each group."""
    pyplot = _pyplot()
    names = [name for name, _ in groups[0].values]
    figure, axes = pyplot.subplots(figsize=(7, 0.28 * len(names) * len(groups) + 1.2))
    thick = 0.8 / len(names)
    for at, name in enumerate(names):
        places = [number + at * thick for number in range(len(groups))]
        drawn = axes.barh(places, [dict(group.values)[name] for group in groups], height=thick, label=name)
        axes.bar_label(drawn, fmt=lambda share: f"{share:.0%}", padding=3, fontsize=8)
    axes.set_yticks([number + 0.4 for number in range(len(groups))], [group.label for group in groups])
    axes.set(title=title, xlabel=x_label, xlim=(0, 1.08))
    axes.invert_yaxis()
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, path)
