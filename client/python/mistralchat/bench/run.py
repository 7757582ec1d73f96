"""Runs a plan: each load in each round, with its warm-up."""

from typing import Protocol

from mistralchat.bench.generator import Progress
from mistralchat.bench.load import ClosedLoop, Load
from mistralchat.bench.plan import Plan, Requests
from mistralchat.bench.server_processes import ServerProcesses
from mistralchat.bench.statistics import Level, Measurement
from mistralchat.bench.workers import Run, Workers


class Observer(Protocol):
    """Is told how it goes."""

    def begins(self, load: Load, round_: int, calls: int) -> None:
        """A measurement begins, `round_` counted from 0."""

    def goes_on(self, progress: Progress) -> None:
        """So much of it is done."""

    def ended(self, load: Load, round_: int, measurement: Measurement) -> None:
        """It has ended."""


def run(
    plan: Plan, requests: Requests, workers: Workers, server: ServerProcesses | None, observer: Observer
) -> tuple[list[Level], bool]:
    """The loads that were measured, and whether Ctrl-C ended it. Raises `BenchError`.

    Loads take turns within each round, so that a machine that grows slower does so for all of them.
    """
    levels = [Level(load, []) for load in plan.loads]
    for round_ in range(plan.rounds):
        for level in levels:
            interrupted = _measure(level, round_, plan, requests, workers, server, observer)
            if interrupted:
                return [level for level in levels if level.rounds], True
    return levels, False


def _measure(
    level: Level,
    round_: int,
    plan: Plan,
    requests: Requests,
    workers: Workers,
    server: ServerProcesses | None,
    observer: Observer,
) -> bool:
    """Appends one round to the level; true if it was interrupted, then with what there is of it."""
    load, random = level.load, plan.random_for(level.load, round_)
    observer.begins(load, round_, plan.calls(load))
    if plan.warm_up:
        at_once = load.callers if isinstance(load, ClosedLoop) else plan.warm_up
        warm_up = requests.make(plan.warm_up, random)
        if workers.run(warm_up, lambda _: None, callers=min(at_once, plan.warm_up)).interrupted:
            return True
    calls = requests.make(plan.calls(load), random)
    before = server.cpu() if server else None
    done: Run
    if isinstance(load, ClosedLoop):
        done = workers.run(calls, observer.goes_on, callers=load.callers)
    else:
        done = workers.run(calls, observer.goes_on, due=plan.due(load, random))
    cpu = None if server is None or before is None else server.cpu() - before
    measurement = Measurement(done.recording, done.seconds, cpu)
    level.rounds.append(measurement)
    observer.ended(load, round_, measurement)
    return done.interrupted
