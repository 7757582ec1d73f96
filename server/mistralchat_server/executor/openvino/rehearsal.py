"""A process that compiles every new constraint once, so that one that cannot be compiled harms nobody.

A constraint that does not compile breaks the pipeline that meets it, one that takes minutes or all
memory would take them from everybody. Here it only costs this process, which is then started again.
"""

import math
import multiprocessing
import os
import re
import resource
import time
from collections import OrderedDict
from enum import Enum
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from ..messages import Constraint, ConstraintKind

if TYPE_CHECKING:
    import openvino_genai

    from .scratch import ScratchPipeline

#: Constraints that are compiled for one tokenizer before it is loaded anew: its cache of them has no bound,
#: and each takes 13 to 414 KB there.
MOST_COMPILED = 1_024
#: Verdicts that are remembered.
_REMEMBERED = 4096
#: Address space that a compilation may take beyond what the process holds when it is ready, in bytes.
_MEMORY = 2 << 30
#: In place of a reason: the compilation ended the process.
_CRASHED = "it cannot be compiled"
#: Times the permitted seconds after which a compilation is ended.
_PATIENCE = 10
#: Processor time that the engine may spend on it in one step although it is compiled, in seconds.
_LONGEST_DELAY = 0.05
_DELAYS = "each call with it would keep all others waiting: make it smaller, or less nested"
_PARSER_ERROR = re.compile(
    r"(?:Regex parsing|EBNF parser) error at (position \d+|line \d+, column \d+): (.+)"
)
_SCHEMA_ERROR = re.compile(r"()(Unsupported type \"\w+\")")
#: The first thing that the process says.
_HERE = 0.0


class Verdict(Enum):
    """What became of a constraint in rehearsal, if not that it does not compile."""

    GOOD = "good"
    TOO_EXPENSIVE = "too expensive"
    #: Nothing is known: the process could not be started.
    UNKNOWN = "unknown"


class Rehearsal:
    """Asks a process of its own whether a constraint compiles, one at a time, without waiting for it."""

    def __init__(self, model: Path, vocab_size: int, max_seconds: float) -> None:
        self._model = model
        self._vocab_size = vocab_size
        self._max_seconds = max_seconds
        self._verdicts: OrderedDict[Constraint, Verdict | str] = OrderedDict()
        self._asked: Constraint | None = None
        self._deadline = 0.0
        self._start()

    def verdict(self, constraint: Constraint) -> Verdict | str | None:
        """What became of it, or why it does not compile, for the caller to read. None: ask again later.

        A second constraint is taken up once the first has its verdict.
        """
        if self._asked is not None or not self._ready:
            self._listen()
        if (known := self._verdicts.get(constraint)) is not None:
            self._verdicts.move_to_end(constraint)
            return known
        if self._dead:
            self._start()
            return Verdict.UNKNOWN
        if self._ready and self._asked is None:
            if self._compiled == MOST_COMPILED:
                self._restart()
            else:
                self._ask(constraint)
        return None

    def close(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_rehearse, args=(theirs, str(self._model), self._vocab_size), daemon=True
        )
        self._process.start()
        theirs.close()
        self._ready = self._dead = False
        self._compiled = 0

    def _restart(self) -> None:
        self.close()
        self._start()

    def _ask(self, constraint: Constraint) -> None:
        try:
            self._pipe.send(constraint)
        except OSError:
            # It ended while nobody asked anything.
            self._restart()
            return
        self._asked = constraint
        self._compiled += 1
        # It runs at the lowest priority: on a busy machine its clock is slower than the wall's.
        self._deadline = time.monotonic() + _PATIENCE * self._max_seconds

    def _listen(self) -> None:
        try:
            answer: float | str | None = self._pipe.recv() if self._pipe.poll() else None
        except (EOFError, OSError):
            answer = _CRASHED
        if self._asked is None:
            self._dead = answer is _CRASHED
            self._ready = answer == _HERE
            return
        if answer is None:
            if time.monotonic() < self._deadline:
                return
            answer = math.inf
        if answer in (_CRASHED, math.inf):
            self._restart()
        if isinstance(answer, float):
            good = answer <= self._max_seconds
            self._remember(self._asked, Verdict.GOOD if good else Verdict.TOO_EXPENSIVE)
        else:
            self._remember(self._asked, answer)
        self._asked = None

    def _remember(self, constraint: Constraint, verdict: Verdict | str) -> None:
        self._verdicts[constraint] = verdict
        if len(self._verdicts) > _REMEMBERED:
            self._verdicts.popitem(last=False)


def _rehearse(pipe: Connection, model: str, vocab_size: int) -> None:
    """Answers each constraint with the seconds that it took to compile, or why it did not."""
    import openvino_genai

    from .constraints import structured_output
    from .scratch import ScratchPipeline

    os.nice(19)
    tokenizer = openvino_genai.Tokenizer(model)
    scratch = ScratchPipeline(tokenizer, vocab_size)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + _MEMORY, resource.RLIM_INFINITY))
    pipe.send(_HERE)
    while True:
        try:
            constraint: Constraint = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            config = openvino_genai.GenerationConfig(
                max_new_tokens=1, structured_output_config=structured_output(constraint)
            )
            scratch.compile(config)
        except Exception as error:  # numbers out of range are an OverflowError, for example
            pipe.send(_reason(constraint, str(error)))
            scratch = ScratchPipeline(tokenizer, vocab_size)
        else:
            # The lesser of the two is nearest to what it takes on an idle machine.
            seconds = min(time.perf_counter() - wall, time.process_time() - cpu)
            pipe.send(_DELAYS if _repeated(scratch, config) > _LONGEST_DELAY else seconds)


def _repeated(scratch: "ScratchPipeline", config: "openvino_genai.GenerationConfig") -> float:
    """Seconds that a compiled constraint takes with each call: the engine parses a schema anew each time."""
    started = time.thread_time()
    scratch.compile(config)
    return time.thread_time() - started


def _reason(constraint: Constraint, engine_text: str) -> str:
    """What a caller may read of an engine's error: never where in the engine it arose."""
    what = {
        ConstraintKind.EXCLUDED_STRINGS: "these bad words cannot be excluded together",
        ConstraintKind.JSON_SCHEMA: "the JSON schema uses something that is not supported",
        ConstraintKind.REGEX: "the regular expression is malformed or uses something that is not supported",
        ConstraintKind.GRAMMAR: "the grammar is malformed",
    }[constraint.kind]
    known = _PARSER_ERROR.search(engine_text) or _SCHEMA_ERROR.search(engine_text)
    if known is None:
        return what
    place, cause = known.group(1), known.group(2).strip()
    return f"{what}: {cause}" + (f" at {place}" if place else "")
