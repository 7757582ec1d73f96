"""The command `mistralchat bench`: its options, and what it does in order."""

import argparse
import json
import math
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from mistralchat.bench import report, server_processes, table
from mistralchat.bench.load import ClosedLoop, Lengths, Load, OpenLoop, parse_lengths
from mistralchat.bench.plan import Plan, Requests
from mistralchat.bench.progress import ProgressDisplay
from mistralchat.bench.prompts import Prompts
from mistralchat.bench.run import run
from mistralchat.bench.server_processes import ServerProcesses
from mistralchat.bench.workers import BenchError, Workers
from mistralchat.cli import _connection_options, _display
from mistralchat.cli._connection_options import ServerConnection
from mistralchat.errors import ChatError
from mistralchat.v1 import chat_pb2

_T = TypeVar("_T")

_INTERRUPTED = 130  # 128 + SIGINT, as shells count
_PIPED_WIDTH = 120
_PICTURES = (".pdf", ".png", ".svg")
#: For the first questions, which a server that is there answers at once.
_PATIENCE_SECONDS = 10.0

_EPILOG = """\
lengths, in tokens:
  128                 always 128
  uniform:64,512      from 64 to 512, each as likely
  lognormal:200,0.8   median 200, and 0.8 the standard deviation of the logarithm: a long tail
The chat template's own tokens count towards a prompt. Where prompt and answer exceed the model's
context, the prompt is made shorter.

Latency counts from when a call was due. With --rate that is its arrival, at times that do not depend on
the server, so what waits is seen to wait. Percentiles are of answered calls; failed calls are counted by
status.

exit status: 0; 1 if there is no server or no call was answered; 2 for wrong usage; 130 after Ctrl-C, which
ends open calls and prints what was measured."""


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    _check(parser, options)
    plan = _plan(options)
    notes = _display.console()
    try:
        connection = ServerConnection.of(options)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    started = datetime.now(UTC)
    try:
        with connection.client() as client:
            model = client.model(timeout=_PATIENCE_SECONDS)
            _check_model(plan, model)
            prompts = Prompts(lambda text: client.count_tokens(text, timeout=_PATIENCE_SECONDS))
        server = _server(options.server_pid, connection.target)
        _introduce(notes, connection.target, model, server)
        requests = Requests(plan, prompts, model.context_length)
        with (
            Workers(connection, options.processes, options.connections) as workers,
            ProgressDisplay(notes, plan.rounds) as display,
        ):
            levels, interrupted = run(plan, requests, workers, server, display)
    except ChatError as error:
        _display.error(notes, error, connection.target)
        return 1
    except BenchError as error:
        notes.print(f"[bold red]error:[/] {error}")
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    if not levels:
        return _INTERRUPTED
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)
    table.show(console, levels, options.processes)
    surroundings = report.Surroundings(
        ["mistralchat", "bench", *argv],
        started,
        connection.target,
        model,
        server.pids if server else None,
        options.processes,
        options.connections,
    )
    if options.json:
        whole = report.report(surroundings, plan, levels, interrupted)
        options.json.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    if options.plot and any(level.overall.recording.answered for level in levels):
        # Takes a second to import, which nobody should wait for without need.
        from mistralchat.bench import plot

        plot.save(options.plot, levels, model, connection.target)
    if interrupted:
        return _INTERRUPTED
    return 0 if any(level.overall.recording.answered for level in levels) else 1


def _introduce(
    notes: Console, target: str, model: chat_pb2.GetModelResponse, server: ServerProcesses | None
) -> None:
    seen = "its CPU time cannot be seen from here" if server is None else _pids(server)
    notes.print(f"{model.name} {model.precision}, {model.executor} · {target} · {seen}", markup=False)


def _pids(server: ServerProcesses) -> str:
    server.cpu()
    return f"server process{'es' if len(server.pids) > 1 else ''} {', '.join(map(str, server.pids))}"


def _server(pid: int | None, target: str) -> ServerProcesses | None:
    if pid is None:
        return server_processes.behind(target)
    try:
        return server_processes.by_pid(pid)
    except ValueError as error:
        raise BenchError(str(error)) from error


def _check_model(plan: Plan, model: chat_pb2.GetModelResponse) -> None:
    refused = {
        parameter.name for parameter in model.unsupported_parameters if not parameter.with_beam_search_only
    }
    if not plan.may_end_early and "min_tokens" in refused:
        raise BenchError(
            "this server cannot make answers as long as asked for (min_tokens): use --may-end-early"
        )


def _plan(options: argparse.Namespace) -> Plan:
    loads: list[Load] = [OpenLoop(rate) for rate in options.rate or ()]
    loads = loads or [ClosedLoop(callers) for callers in options.concurrency]
    return Plan(
        loads,
        options.requests,
        options.prompt_tokens,
        options.max_completion_tokens,
        options.may_end_early,
        options.warm_up,
        options.rounds,
        options.seed,
    )


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """What would otherwise be found out at the end."""
    if options.rate is None and options.requests and options.requests < max(options.concurrency):
        parser.error(f"--requests must be at least the {max(options.concurrency)} of --concurrency")
    for flag, path in (("--json", options.json), ("--plot", options.plot)):
        if path is not None and not path.parent.is_dir():
            parser.error(f"{flag}: there is no folder {path.parent}")
    if options.plot is not None and options.plot.suffix.lower() not in _PICTURES:
        parser.error(f"--plot: the name must end with one of {' '.join(_PICTURES)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mistralchat bench",
        description="Put a server under load and measure latencies and rates.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _connection_options.add(parser)
    load = parser.add_argument_group("load")
    kind = load.add_mutually_exclusive_group()
    kind.add_argument(
        "--concurrency",
        type=_list(_positive),
        default=[1],
        metavar="N[,N…]",
        help="closed loop: so many callers, each with its next call when the last has ended; several "
        "numbers are measured in turn (default 1)",
    )
    kind.add_argument(
        "--rate",
        type=_list(_rate),
        metavar="R[,R…]",
        help="open loop: so many calls a second arrive at random (Poisson), however the server does",
    )
    load.add_argument(
        "--requests",
        type=_positive,
        metavar="M",
        help="calls of each round and load (default 100, or four for each caller if that is more)",
    )
    load.add_argument(
        "--prompt-tokens", type=_lengths, default="128", metavar="LENGTHS", help="see below (default 128)"
    )
    load.add_argument(
        "--max-completion-tokens",
        type=_lengths,
        default="128",
        metavar="LENGTHS",
        help="of answers, see below (default 128)",
    )
    load.add_argument(
        "--may-end-early",
        action="store_true",
        help="let the model end its answers; otherwise they are made as long as asked for (min_tokens)",
    )
    load.add_argument(
        "--warm-up", type=_count, default=8, metavar="N", help="calls before each measurement (default 8)"
    )
    load.add_argument("--rounds", type=_positive, default=1, metavar="N", help="measure all loads N times")
    load.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of lengths, prompts and arrivals (default 0). A server with a prefix cache knows the prompts "
        "of a seed when they come again",
    )
    generator = parser.add_argument_group("load generator")
    generator.add_argument(
        "--processes", type=_positive, default=1, metavar="N", help="that share the calls (default 1)"
    )
    generator.add_argument(
        "--connections", type=_positive, default=1, metavar="N", help="of each process (default 1)"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    output.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help=f"draw latencies over load and their distributions ({', '.join(_PICTURES)})",
    )
    output.add_argument(
        "--server-pid",
        type=_positive,
        metavar="PID",
        help="whose CPU time is reported, with its children's (default: whoever listens at the target's "
        "port, if that is on this machine)",
    )
    return parser


def _list(one: Callable[[str], _T]) -> Callable[[str], list[_T]]:
    return lambda text: [one(part) for part in text.split(",")]


def _positive(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _count(text: str) -> int:
    return 0 if text.strip() == "0" else _positive(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return rate


def _lengths(text: str) -> Lengths:
    try:
        return parse_lengths(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of N, uniform:LEAST,MOST and lognormal:MEDIAN,SIGMA"
        ) from None
