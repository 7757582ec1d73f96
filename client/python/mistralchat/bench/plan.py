"""What is to be measured, and the calls that it takes."""

import random
from dataclasses import dataclass
from itertools import islice

from mistralchat.bench.load import Lengths, Load, OpenLoop, arrivals
from mistralchat.bench.prompts import Prompts
from mistralchat.v1 import chat_pb2


@dataclass(frozen=True, slots=True)
class Plan:
    """Each of the loads in turn, as often as there are rounds."""

    loads: list[Load]
    requests: int | None
    """Calls of one round at one load; None leaves them to the load."""
    prompt_tokens: Lengths
    max_completion_tokens: Lengths
    may_end_early: bool
    """Whether answers may be shorter than asked for, as the model wants."""
    warm_up: int
    rounds: int
    seed: int

    def calls(self, load: Load) -> int:
        """How many are made in one round."""
        if self.requests is not None:
            return self.requests
        return 100 if isinstance(load, OpenLoop) else max(100, 4 * load.callers)

    def random_for(self, load: Load, round_: int) -> random.Random:
        """Chance that is the same for the same seed, and different for each measurement of a run.

        Prompts that came again would find themselves in the server's prefix cache.
        """
        return random.Random(f"{self.seed}, {load}, {round_}")

    def due(self, load: OpenLoop, random: random.Random) -> list[float]:
        """Seconds from the beginning of a round to each of its calls."""
        return list(islice(arrivals(load.rate, random), self.calls(load)))


class Requests:
    """Makes serialized requests with the lengths that the plan asks for."""

    def __init__(self, plan: Plan, prompts: Prompts, context_length: int) -> None:
        self._plan = plan
        self._prompts = prompts
        self._context_length = context_length

    def make(self, count: int, random: random.Random) -> list[bytes]:
        """So many requests. Where prompt and answer exceed the context, the prompt gives way."""
        return [self._request(random) for _ in range(count)]

    def _request(self, random: random.Random) -> bytes:
        completion = self._plan.max_completion_tokens.draw(random)
        prompt = min(self._plan.prompt_tokens.draw(random), self._context_length - completion)
        request = chat_pb2.ChatRequest(
            messages=[
                chat_pb2.Message(role=chat_pb2.ROLE_USER, content=self._prompts.prompt(prompt, random))
            ],
            max_completion_tokens=completion,
            min_tokens=None if self._plan.may_end_early else completion,
        )
        return request.SerializeToString()
