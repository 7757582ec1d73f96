"""How far the measuring is, on the terminal while it runs."""

from types import TracebackType
from typing import Self

from rich import progress
from rich.console import Console

from mistralchat.bench.generator import Progress
from mistralchat.bench.load import Load
from mistralchat.bench.statistics import Measurement
from mistralchat.bench.table import rate


class ProgressDisplay:
    """A bar for the measurement that runs, and a line for each that has ended."""

    def __init__(self, console: Console, rounds: int) -> None:
        self._console = console
        self._rounds = rounds
        self._bar = progress.Progress(
            progress.SpinnerColumn(style="dim"),
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("[dim]{task.fields[note]}"),
            progress.TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", note="")

    def begins(self, load: Load, round_: int, calls: int) -> None:
        self._bar.reset(self._task, total=calls, description=self._name(load, round_), note="warming up")

    def goes_on(self, progress: Progress) -> None:
        note = f"{progress.messages:,} messages"
        if progress.failed:
            note += f", {progress.failed:,} failed"
        self._bar.update(self._task, completed=progress.answered + progress.failed, note=note)

    def ended(self, load: Load, round_: int, measurement: Measurement) -> None:
        recording, seconds = measurement.recording, measurement.seconds
        tokens = sum(recording.completion_tokens) / seconds if seconds else 0.0
        note = f"{recording.answered:,} answers in {seconds:.1f} s, {rate(tokens)} tokens/s"
        if recording.failed:
            note += f", {recording.failed:,} failed"
        if recording.interrupted:
            note += f", {recording.interrupted:,} interrupted"
        self._console.print(f"{self._name(load, round_)}: {note}", style="dim", markup=False)

    def _name(self, load: Load, round_: int) -> str:
        return load.name + (f", round {round_ + 1} of {self._rounds}" if self._rounds > 1 else "")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()
