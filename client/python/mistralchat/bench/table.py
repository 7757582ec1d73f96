"""The figures as tables for a terminal."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mistralchat.bench.statistics import Figures, Level

_TIMES = (
    ("first token", "time_to_first_token"),
    ("between messages", "between_messages"),
    ("per further token", "per_token"),
    ("total", "total"),
    ("queued", "queued"),
)
_Overall = Sequence[tuple[Level, Figures]]
#: Above this share of a core a generator process begins to measure itself.
_BUSY = 0.85
#: Calls that begin later than this were held up by the generator.
_LATE_SECONDS = 0.01


def show(console: Console, levels: Sequence[Level], processes: int) -> None:
    """Prints latencies, rates and failures; and a warning where the generator was the bottleneck."""
    overall = [(level, Figures.of(level.overall)) for level in levels]
    if any(figures.calls["answered"] for _, figures in overall):
        console.print(_latencies(overall))
        console.print(_rates(overall))
        console.print(_costs(overall))
    else:
        console.print("no call was answered", style="bold red")
    for level, figures in overall:
        for status, reason in level.overall.recording.reasons.items():
            count = f"{figures.statuses[status]:,} ended with {status}"
            console.print(
                Text.assemble((f"{level.load.name}: {count}", "bold red"), f"  {' '.join(reason.split())}"),
                soft_wrap=True,
            )
        busy = figures.generator_cpu_seconds / max(figures.seconds, 1e-9) / processes
        late = figures.late.p99 if figures.late else 0.0
        if busy > _BUSY or late > _LATE_SECONDS:
            console.print(
                f"{level.load.name}: the load generator was short of processor time (each process busy "
                f"{busy:.0%}, calls begun up to {duration(late)} late at p99); the figures include its own "
                "delay. More --processes help where there are cores for them.",
                style="yellow",
                soft_wrap=True,
            )


def _latencies(overall: _Overall) -> Table:
    table = _table("load", "time", "p50", "p90", "p99", "max")
    table.columns[1].justify = "left"
    for level, figures in overall:
        rows = [(name, getattr(figures, field)) for name, field in _TIMES]
        told = [(name, times) for name, times in rows if times is not None] or [("no answer", None)]
        for index, (name, times) in enumerate(told):
            values = (times.p50, times.p90, times.p99, times.max) if times else ()
            table.add_row(
                level.load.name if index == 0 else "",
                name,
                *(duration(value) for value in values),
                end_section=index == len(told) - 1,
            )
    return table


def _rates(overall: _Overall) -> Table:
    interrupted = any(figures.calls["interrupted"] for _, figures in overall)
    table = _table(
        "load",
        "answered",
        "failed",
        *["interrupted"] * interrupted,
        "calls/s",
        "tokens/s",
        "messages/s",
    )
    for level, figures in overall:
        calls, rates = figures.calls, figures.per_second
        table.add_row(
            level.load.name,
            f"{calls['answered']:,}",
            f"{calls['failed']:,}",
            *[f"{calls['interrupted']:,}"] * interrupted,
            rate(rates["calls"]),
            rate(rates["completion_tokens"]),
            rate(rates["messages"]),
        )
    return table


def _costs(overall: _Overall) -> Table:
    """Tokens of a call, processor time of all calls, and how far the rounds are apart."""
    seen = any(figures.server_cpu_seconds for _, figures in overall)
    several = any(len(level.rounds) > 1 for level, _ in overall)
    table = _table(
        "load",
        "prompt",
        "answer",
        "CPU: generator",
        *["front end", "executor"] * seen,
        *["tokens/s by round"] * several,
    )
    for level, figures in overall:
        answered = max(1, figures.calls["answered"])
        cells = [f"{figures.tokens[part] / answered:,.0f} tokens" for part in ("prompt", "completion")]
        cells.append(f"{figures.generator_cpu_seconds:.2f} s")
        if cpu := figures.server_cpu_seconds:
            cells += [f"{cpu[part]:.2f} s" for part in ("front_ends", "executor")]
        if several:
            rounds = [Figures.of(round_).per_second["completion_tokens"] for round_ in level.rounds]
            cells.append(" ".join(map(rate, rounds)))
        table.add_row(level.load.name, *cells)
    return table


def _table(*headings: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left", no_wrap=index < len(headings) - 1)
    return table


def duration(seconds: float) -> str:
    """Three significant digits, in milliseconds or seconds."""
    if seconds >= 0.9995:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:,.1f} s"
    milliseconds = seconds * 1e3
    digits = 2 if milliseconds < 9.995 else 1 if milliseconds < 99.95 else 0
    return f"{milliseconds:.{digits}f} ms"


def rate(per_second: float) -> str:
    """Three significant digits or all before the point."""
    digits = 2 if per_second < 9.995 else 1 if per_second < 99.95 else 0
    return f"{per_second:,.{digits}f}"
