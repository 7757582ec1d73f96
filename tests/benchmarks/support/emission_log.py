"""What a replay executor noted of its steps, by the names of the streams. Times are monotonic seconds."""

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mistralchat_server.text.byte_tokenizer import byte_tokenizer

_HOOK = Path(__file__).with_name("emissions")
_NAME_LENGTH = 8


def stream_name(number: int) -> str:
    """The prompt by which the notes know a stream; every stream of a run needs a number of its own."""
    return f"{number:0{_NAME_LENGTH}d}"


@dataclass(frozen=True)
class Emissions:
    """What was emitted and cancelled."""

    #: When each step ended.
    steps: list[float]
    #: For each stream, when each of its tokens was emitted.
    tokens: dict[str, list[float]]
    #: For each stream that was cancelled, when the executor was told.
    cancelled: dict[str, float]


class EmissionLog:
    """The file of a service's notes, which is there once the service has ended."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def environment(self) -> dict[str, str]:
        """What to start the service with."""
        paths = [str(_HOOK), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"PYTHONPATH": os.pathsep.join(paths), "MISTRALCHAT_EMISSIONS": str(self._path)}

    def read(self) -> Emissions:
        """All that was noted."""
        notes = json.loads(self._path.read_text(encoding="utf-8"))
        decode = byte_tokenizer().decode
        names = {int(request): decode(prompt) for request, prompt in notes["names"].items()}
        tokens: dict[str, list[float]] = defaultdict(list)
        for moment, requests in notes["steps"]:
            for request in requests:
                tokens[names[request]].append(moment)
        cancelled = {names[request]: moment for moment, request in notes["cancelled"]}
        return Emissions([moment for moment, _ in notes["steps"]], dict(tokens), cancelled)


@contextmanager
def emission_log() -> Iterator[EmissionLog]:
    """A file for the notes of one service, for the length of a `with`."""
    with TemporaryDirectory(prefix="mistralchat-benchmark-") as folder:
        yield EmissionLog(Path(folder, "emissions.json"))
