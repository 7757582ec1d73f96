"""How an answer, what it took, and an error appear on the terminal."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from mistralchat.answer import FinishReason
from mistralchat.client import ChatStream
from mistralchat.errors import ChatError, Unavailable

_ENDS = {
    FinishReason.STOP: "complete",
    FinishReason.LENGTH: "cut at the token budget",
    FinishReason.STOP_WORD: "ended at a stop word",
    FinishReason.PROMPT_TRUNCATED: "prompt cut at max_tokens, nothing generated",
}

# Answers are text from elsewhere: on a terminal they must not move the cursor or set its title.
_CONTROLS = dict.fromkeys({*range(0x20), *range(0x7F, 0xA0)} - {*b"\n\t"}, "\N{REPLACEMENT CHARACTER}")


@dataclass(frozen=True, slots=True)
class Pace:
    """How an answer came, by this machine's clock. Times are in seconds."""

    to_first_text: float | None
    from_first_to_last_text: float

    def tokens_per_second(self, completion_tokens: int) -> float | None:
        """Tokens after the first, over the time from the first text to the last."""
        if completion_tokens < 2 or not self.from_first_to_last_text:
            return None
        return (completion_tokens - 1) / self.from_first_to_last_text


def console() -> Console:
    """For all that is not the answer: standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def note(console: Console, line: str) -> None:
    """A remark in the margin."""
    console.print(Text(line, style="dim"))


def error(console: Console, failure: ChatError, target: str) -> None:
    """One line that says what went wrong."""
    line = str(failure)
    if isinstance(failure, Unavailable) and failure.retry_after is None:
        # gRPC's own sentence: a chain of causes, of which the last tells.
        line = f"no connection to {target}: {line.rpartition(': ')[2]}"
    console.print(Text.assemble(("error: ", "bold red"), " ".join(line.split())))


def print_answer(stream: ChatStream, console: Console, *, best_beam_only: bool) -> Pace:
    """Prints the answer to standard output as it arrives."""
    pieces = _best_beam(stream) if best_beam_only else stream
    started = time.monotonic()
    first = last = None
    piece = "\n"
    try:
        with console.status(Text("waiting for the first token", style="dim"), spinner_style="dim") as waiting:
            for piece in pieces:
                last = time.monotonic()
                if first is None:
                    first = last
                    waiting.stop()
                sys.stdout.write(piece.translate(_CONTROLS) if sys.stdout.isatty() else piece)
                sys.stdout.flush()
    finally:
        if not piece.endswith("\n"):
            print(flush=True)
    if first is None or last is None:
        return Pace(None, 0.0)
    return Pace(first - started, last - first)


def _best_beam(stream: ChatStream) -> Iterator[str]:
    yield stream.read()


def summary(stream: ChatStream, pace: Pace) -> str:
    """Why the answer ended, its tokens and its pace, in one line."""
    parts = [_ENDS.get(stream.finish_reason or FinishReason.UNSPECIFIED, "ended")]
    if stream.stop_word is not None:
        parts[0] += f" {stream.stop_word!r}"
    if stream.usage is not None:
        parts.append(
            f"{stream.usage.prompt_tokens} prompt + {stream.usage.completion_tokens} completion tokens"
        )
    if pace.to_first_text is not None:
        parts.append(f"first text after {pace.to_first_text:.2f} s")
    if stream.usage is not None:
        rate = pace.tokens_per_second(stream.usage.completion_tokens)
        if rate is not None:
            parts.append(f"{rate:.1f} tokens/s")
    return " · ".join(parts)
