"""The JSON report: what was measured, on what, and how."""

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from google.protobuf.json_format import MessageToDict

from mistralchat.bench.load import ClosedLoop, Load
from mistralchat.bench.plan import Plan
from mistralchat.bench.statistics import Figures, Level
from mistralchat.v1 import chat_pb2

FORMAT = "mistralchat-bench"
VERSION = 1
"""Goes up when a field changes its meaning or goes away; new fields can come at any time."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where and on what it was measured."""

    command_line: list[str]
    started: datetime
    target: str
    model: chat_pb2.GetModelResponse
    server_pids: list[int] | None
    """None where the server cannot be seen."""
    processes: int
    connections: int


def report(surroundings: Surroundings, plan: Plan, levels: Sequence[Level], interrupted: bool) -> Any:
    """The report as plain values. Times are in seconds."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "command_line": surroundings.command_line,
        "started": surroundings.started.astimezone(UTC).isoformat(timespec="seconds"),
        "interrupted": interrupted,
        "client": {
            "mistralchat": version("mistralchat"),
            "grpcio": version("grpcio"),
            "python": platform.python_version(),
            "processes": surroundings.processes,
            "connections_per_process": surroundings.connections,
        },
        "machine": _machine(),
        "server": {
            "target": surroundings.target,
            "pids": surroundings.server_pids,
            "model": MessageToDict(
                surroundings.model,
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
            ),
        },
        "plan": {
            "requests": plan.requests,
            "prompt_tokens": str(plan.prompt_tokens),
            "max_completion_tokens": str(plan.max_completion_tokens),
            "may_end_early": plan.may_end_early,
            "warm_up": plan.warm_up,
            "rounds": plan.rounds,
            "seed": plan.seed,
        },
        "levels": [
            {
                "load": _load(level.load),
                "overall": asdict(Figures.of(level.overall)),
                "rounds": [asdict(Figures.of(measurement)) for measurement in level.rounds],
                "failures": level.overall.recording.reasons,
            }
            for level in levels
        ],
    }


def _load(load: Load) -> dict[str, Any]:
    if isinstance(load, ClosedLoop):
        return {"kind": "closed", "concurrency": load.callers}
    return {"kind": "open", "rate": load.rate}


def _machine() -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def _processor() -> str:
    """Its name, where Linux tells it; elsewhere what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
