"""Runs all benchmarks one after another and puts what was measured beside the targets.

    make bench      or      python tests/benchmarks/suite.py [SCRIPT ...] [--write docs/BENCHMARKS.md]

A benchmark is a script in this folder that compares within one run. It prints lines of JSON, each an object
of figures by name, and last `ratio NUMBER`; one that cannot run on this machine prints {"skipped": "why"}
instead. `RUNS` lists the scripts with their arguments and the figures that have a target: a new script is
one more entry there. A script that fails does not stop the others; its rows say so, and the exit code is 1.
"""

import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from support.script import parser

_HERE = Path(__file__).parent
#: No script of the suite should take longer; one that does has failed.
_MOST_SECONDS = 240.0
_BEGIN, _END = "<!-- measured: written by tests/benchmarks/suite.py -->", "<!-- end of measured -->"
_COLUMNS = ("what", "target", "measured", "met?")


@dataclass(frozen=True)
class Target:
    """One figure of a script and its bound, if it has one."""

    what: str
    figure: str
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""
    #: What else the line holds that has the figure.
    where: Mapping[str, Any] = field(default_factory=dict)

    def measured(self, lines: Sequence[Mapping[str, Any]]) -> float | None:
        """The figure, of the last line that has it."""
        found = [
            line[self.figure] for line in lines if self.figure in line and self.where.items() <= line.items()
        ]
        return found[-1] if found else None

    def met(self, measured: float) -> bool | None:
        """Whether a value keeps the bound; None without one."""
        if self.at_least is not None:
            return measured >= self.at_least
        return None if self.at_most is None else measured <= self.at_most

    @property
    def bound(self) -> str:
        """In words."""
        if self.at_least is not None:
            return f"≥ {_number(self.at_least)}{self.unit}"
        return "-" if self.at_most is None else f"≤ {_number(self.at_most)}{self.unit}"


class Run(NamedTuple):
    """A script with its arguments, and what is asked of it."""

    command: Sequence[str]
    targets: Sequence[Target]


class Row(NamedTuple):
    """A line of the table."""

    what: str
    target: str
    measured: str
    met: str


class Outcome(NamedTuple):
    """What a script printed, and why it has no figures, if it has none."""

    lines: Sequence[Mapping[str, Any]]
    skipped: str | None = None
    failed: str | None = None

    @classmethod
    def of(cls, output: Sequence[str], exit_code: int) -> "Outcome":
        """Of a script's standard output."""
        lines = [json.loads(line) for line in output if line.startswith("{")]
        if exit_code:
            return cls(lines, failed=f"exit code {exit_code}")
        if not output or not output[-1].startswith("ratio "):
            return cls(lines, failed="no ratio at the end")
        return cls(lines, skipped=next((line["skipped"] for line in lines if "skipped" in line), None))


def _by_streams(
    what: str, figure: str, bounds: Mapping[int, float | None], unit: str = "", at_most: bool = False
) -> list[Target]:
    targets = []
    for streams, bound in bounds.items():
        least, most = (None, bound) if at_most else (bound, None)
        name = f"{what}, {streams:,} stream{'s' * (streams > 1)}"
        targets.append(Target(name, figure, least, most, unit, {"streams": streams}))
    return targets


RUNS = (
    Run(
        ("transport.py", "1", "1024", "256", "64", "--rounds", "3", "--messages", "40000"),
        _by_streams(
            "transport ceiling over bare grpc.aio", "ratio", {1: None, 64: 0.75, 256: 0.75, 1_024: None}
        ),
    ),
    Run(
        ("record_rate.py",),
        [
            Target("record rate (20,404 tokens/s over 512 streams): delivered", "delivered", at_least=1.0),
            Target("record rate: tokens per second", "tokens/s"),
            Target("record rate: added delay, p99", "delay p99 ms", at_most=25, unit=" ms"),
            Target("record rate: front end", "front end cores", at_most=1.0, unit=" cores"),
        ],
    ),
    Run(
        ("coalescing.py", "256", "512"),
        _by_streams(
            "coalescing: tokens/s delivered per front-end core",
            "tokens/s per front-end core",
            {256: 400_000, 512: 400_000},
        ),
    ),
    Run(
        ("efficiency.py", "1", "64", "16", "--rounds", "3"),
        _by_streams("efficiency over the pipeline driven directly", "ratio", {1: 0.97, 16: 0.97, 64: 0.97}),
    ),
    Run(
        ("first_token.py",),
        [Target("added time to first token, median", "added ms", at_most=3, unit=" ms")],
    ),
    Run(
        ("peers.py", "1", "8", "32", "--rounds", "3"),
        [
            *_by_streams(
                "tokens/s over llama-server", "over llama-server, tokens/s", {1: 1.0, 8: 2.0, 32: 3.0}
            ),
            *_by_streams(
                "time to first token over llama-server",
                "over llama-server, first token ms",
                {1: 1.0, 8: 1.0, 32: 1.0},
                at_most=True,
            ),
            *_by_streams("tokens/s over SMG (HTTP, SSE)", "over SMG, tokens/s", {1: None, 8: None, 32: None}),
        ],
    ),
    Run(
        ("growth.py", "--seconds", "5"),
        [
            *_by_streams(
                "front-end CPU per token",
                "front-end µs per token",
                dict.fromkeys((1, 64, 256, 1_024, 4_096)),
                unit=" µs",
            ),
            Target("CPU per token, 64 to 4,096 streams: deviation", "largest deviation", at_most=0.2),
        ],
    ),
    Run(
        ("growth.py", "--memory", "10000"),
        [
            Target("memory per idle stream, 10,000 open", "KB per idle stream", at_most=25, unit=" KB"),
            Target("memory per active stream, 10,000 open", "KB per active stream", unit=" KB"),
        ],
    ),
    Run(
        ("cancellation.py",),
        [Target("cancellation at 256 streams: steps until the slot is free", "steps max", at_most=2)],
    ),
    Run(
        ("overload.py", "--seconds", "8"),
        [
            Target(
                f"ten times the peak, callers {kind} RetryInfo: {what}",
                figure,
                least,
                most,
                where={"callers": kind},
            )
            for kind in ("ignore", "honour")
            for what, figure, least, most in (
                ("useful answers over the peak", "goodput", 0.95, None),
                ("time to first token over its value at peak, p50", "first token p50 over peak", None, 2.0),
                ("the same, p99", "first token p99 over peak", None, 2.0),
            )
        ],
    ),
    Run(
        ("crash.py",),
        [
            Target(
                "executor killed under 64 streams: all have ended after",
                "streams ended, longest s",
                at_most=1,
                unit=" s",
            ),
            Target("the same: health is NOT_SERVING after", "not serving, longest s", at_most=1, unit=" s"),
            Target(
                "the same: a call meanwhile is refused after, at most", "refused after ms, max", unit=" ms"
            ),
        ],
    ),
    Run(
        ("hostile_constraints.py", "--rounds", "1"),
        [
            Target(
                "hostile constraints: largest extra gap of other streams",
                "largest extra gap ms",
                at_most=100,
                unit=" ms",
            )
        ],
    ),
    Run(
        ("front_ends.py",),
        [Target("throughput of 4 front ends over 1", "ratio", at_least=3.2)],
    ),
)


def rows(run: Run, outcome: Outcome) -> Iterator[Row]:
    """The table's lines for one script."""
    for target in run.targets:
        measured = target.measured(outcome.lines)
        if outcome.failed is not None:
            yield Row(target.what, target.bound, f"failed: {outcome.failed}", "no")
        elif outcome.skipped is not None:
            yield Row(target.what, target.bound, f"skipped: {outcome.skipped}", "-")
        elif measured is None:
            yield Row(target.what, target.bound, f"failed: no figure '{target.figure}'", "no")
        else:
            met = {True: "yes", False: "no", None: "-"}[target.met(measured)]
            yield Row(target.what, target.bound, f"{_number(measured)}{target.unit}", met)


def carry_out(run: Run, console: Console) -> Outcome:
    """Runs a script, showing its lines as they come. It fails after `_MOST_SECONDS`."""
    name, *arguments = run.command
    command = [sys.executable, str(_HERE / name), *arguments]
    # A session of its own, so that all of its processes can be ended.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    late = threading.Timer(_MOST_SECONDS, os.killpg, (process.pid, signal.SIGKILL))
    late.start()
    output = []
    try:
        assert process.stdout is not None
        with console.status(" ".join(run.command)):
            for line in process.stdout:
                output.append(line.strip())
                console.print(f"  {output[-1]}", style="dim", markup=False, highlight=False, soft_wrap=True)
            exit_code = process.wait()
    finally:
        late.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    if exit_code == -signal.SIGKILL:
        return Outcome([], failed=f"took more than {_MOST_SECONDS:.0f} s")
    return Outcome.of(output, exit_code)


def table_of(lines: Sequence[Row]) -> Table:
    """For a terminal."""
    table = Table(*_COLUMNS)
    for row in lines:
        table.add_row(*row, style={"no": "red", "yes": "green"}.get(row.met))
    return table


def write(document: Path, lines: Sequence[Row], machine: str) -> None:
    """Puts the table between the two marks of a Markdown document. Raises ValueError if it lacks them."""
    before, begin, rest = document.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{document} lacks the marks {_BEGIN} and {_END}")
    cells = [_COLUMNS, ("---",) * len(_COLUMNS), *lines]
    table = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in cells)
    document.write_text(f"{before}{begin}\n{machine}\n\n{table}\n{end}{after}", encoding="utf-8")


def this_machine() -> str:
    """What the figures hang on, and the day."""
    names = [line.partition(":")[2].strip() for line in _cpu_info() if line.startswith("model name")]
    day = datetime.now(UTC).date().isoformat()
    versions = f"Python {platform.python_version()}, grpcio {version('grpcio')}"
    cores = f"{len(os.sched_getaffinity(0))} cores ({names[0] if names else platform.machine()})"
    return f"{day}, {cores}, {versions}."


def main(scripts: list[str], document: Path | None) -> int:
    """Returns 1 if a script failed, else 0, whether targets are met or not."""
    console = Console()
    lines: list[Row] = []
    failed = False
    for run in RUNS:
        if scripts and run.command[0].removesuffix(".py") not in scripts:
            continue
        started = time.monotonic()
        console.print(f"[bold]{' '.join(run.command)}[/bold]")
        outcome = carry_out(run, console)
        console.print(f"  {time.monotonic() - started:.0f} s")
        of_run = list(rows(run, outcome))
        failed |= any(row.measured.startswith("failed") for row in of_run)
        lines += of_run
    console.print(table_of(lines))
    if document is not None:
        write(document, lines, this_machine())
    return int(failed)


def _cpu_info() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1_000 else f"{value:,.3g}"


if __name__ == "__main__":
    arguments = parser(__doc__)
    names = sorted({run.command[0].removesuffix(".py") for run in RUNS})
    arguments.add_argument("scripts", nargs="*", metavar="SCRIPT", help=f"only these, of: {', '.join(names)}")
    arguments.add_argument("--write", dest="document", type=Path, metavar="FILE", help="a Markdown document")
    given = arguments.parse_args()
    if unknown := set(given.scripts) - set(names):
        arguments.error(f"there is no {', '.join(sorted(unknown))}")
    sys.exit(main(given.scripts, given.document))
