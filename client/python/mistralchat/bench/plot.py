"""The picture: latencies over load, and how they are distributed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from mistralchat.bench.load import ClosedLoop
from mistralchat.bench.statistics import Figures, Level, Times, Values
from mistralchat.bench.table import duration, rate
from mistralchat.v1 import chat_pb2

_MEASURES = (
    ("time to first token", "time_to_first_token"),
    ("time between messages", "between_messages"),
    ("total time", "total"),
)
_PERCENTILES = (("p50", "#1b6ca8"), ("p90", "#e08e0b"), ("p99", "#c23b22"))
_INK = "#333333"
#: Points of a curve, however many values there are.
_SHARES = np.linspace(0.002, 0.998, 500)


def _axis_duration(seconds: float, _: int | None = None) -> str:
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1e3:g} ms"


_DURATION = FuncFormatter(_axis_duration)


def save(path: Path, levels: Sequence[Level], model: chat_pb2.GetModelResponse, target: str) -> None:
    """Draws into a file, of the kind that its name says."""
    levels = [level for level in levels if level.overall.recording.answered]
    several = len(levels) > 1
    figure = Figure(figsize=(13, 8.2 if several else 4.6), layout="constrained", facecolor="white")
    figures = [Figures.of(level.overall) for level in levels]
    times = [Times.of(level.overall.recording) for level in levels]
    title = f"{model.name} {model.precision}, {model.executor} · {target}"
    if not several:
        tokens = rate(figures[0].per_second["completion_tokens"])
        title += f" · {levels[0].load.name}, {figures[0].calls['answered']:,} answers, {tokens} tokens/s"
    figure.suptitle(title, color=_INK, fontsize=13)
    rows = figure.subplots(2 if several else 1, len(_MEASURES), squeeze=False)
    for column, (name, field) in enumerate(_MEASURES):
        if several:
            _over_load(rows[0][column], name, levels, figures, field)
            _distributions(rows[1][column], name, levels, [getattr(each, field) for each in times])
        else:
            _histogram(rows[0][column], name, getattr(times[0], field))
    figure.savefig(path, dpi=150)


def _over_load(
    axes: Axes, name: str, levels: Sequence[Level], figures: Sequence[Figures], field: str
) -> None:
    _dress(axes, name)
    loads = [_number(level) for level in levels]
    for percentile, color in _PERCENTILES:
        values = [getattr(getattr(each, field), percentile, np.nan) for each in figures]
        axes.plot(loads, values, "o-", color=color, label=percentile, linewidth=1.8, markersize=5)
    if max(loads) > 4 * min(loads):
        axes.set_xscale("log")
    axes.set_xticks(loads, [_tick(load, each) for load, each in zip(loads, figures, strict=True)])
    axes.xaxis.set_minor_locator(NullLocator())
    kind = "callers" if isinstance(levels[0].load, ClosedLoop) else "calls per second"
    axes.set_xlabel(f"{kind} (below: answer tokens per second)", color=_INK)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(_DURATION)
    _legend(axes)


def _tick(load: float, figures: Figures) -> str:
    return f"{load:g}\n{rate(figures.per_second['completion_tokens'])}"


def _number(level: Level) -> float:
    return level.load.callers if isinstance(level.load, ClosedLoop) else level.load.rate


def _distributions(axes: Axes, name: str, levels: Sequence[Level], values: Sequence[Values]) -> None:
    """A curve for each load: the share of values (up) that are at most so long (to the right)."""
    _dress(axes, f"distribution of {name}")
    colors = colormaps["viridis"](np.linspace(0, 0.85, len(levels)))
    for level, times, color in zip(levels, values, colors, strict=True):
        if times.size:
            # The shortest and longest few would otherwise take most of the room.
            axes.plot(np.quantile(times, _SHARES), _SHARES, color=color, label=level.load.name, linewidth=1.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(_DURATION)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("share that took at most", color=_INK)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    _legend(axes)


def _histogram(axes: Axes, name: str, times: Values) -> None:
    _dress(axes, name)
    if not times.size:
        axes.text(0.5, 0.5, "one message a call", transform=axes.transAxes, ha="center", color=_INK)
        return
    weights = np.full(times.size, 1 / times.size)
    axes.hist(times, bins=40, weights=weights, color="#9ecae1", edgecolor="white", linewidth=0.3)
    for percentile, color in _PERCENTILES:
        value = float(np.percentile(times, int(percentile[1:])))
        axes.axvline(value, color=color, linewidth=1.6, label=f"{percentile}  {duration(value)}")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(_DURATION)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _legend(axes)


def _legend(axes: Axes) -> None:
    """Above the axes, where it hides nothing; at most five to a line."""
    axes.legend(
        frameon=False,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.99),
        ncols=min(5, len(axes.get_legend_handles_labels()[0]) or 1),
        fontsize=9,
        columnspacing=1.2,
        handlelength=1.4,
        labelcolor=_INK,
    )


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, color=_INK, fontsize=11, pad=26)
    axes.grid(visible=True, color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
