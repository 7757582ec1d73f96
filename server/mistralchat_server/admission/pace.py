"""How fast the executor works calls off, and what that means for those that wait or are refused."""

import random

#: Calls that an average remembers.
_MEMORY = 64
#: Seconds within which a refused caller is asked to return, whatever the estimate.
_SOONEST, _LATEST = 0.1, 30.0
#: A delay varies by so much to either side: who was refused together does not return together.
_JITTER = 0.2


class Average:
    """The mean of the latest values: plain at first, exponentially weighted later."""

    def __init__(self) -> None:
        self._count = 0
        #: None before the first value.
        self.value: float | None = None

    def add(self, value: float) -> None:
        """Takes another value into account."""
        self._count = min(self._count + 1, _MEMORY)
        self.value = value if self.value is None else self.value + (value - self.value) / self._count


class Pace:
    """Measures calls that had a slot, and tells refused ones when to return. All times in seconds."""

    def __init__(self, guess: float) -> None:
        """`guess`: how long a call is thought to keep its slot before any has ended."""
        self._guess = guess
        self._last_turn = 0.0
        #: How long calls keep their slots.
        self.held = Average()
        #: From the slot to the first token.
        self.first_token = Average()

    def between_slots(self, slots: int) -> float:
        """From one slot that becomes free to the next, while all are taken."""
        return self._held / slots

    def turn(self, now: float, wait: float, slots: int) -> float:
        """The delay after which a call that is refused now should come again.

        Each refused call is given a turn of its own, behind those that wait and those refused before it:
        callers that keep to it return at the pace at which slots become free.
        """
        turn = max(self._last_turn, now + wait) + self.between_slots(slots)
        self._last_turn = min(turn, now + _LATEST)
        return _sane(self._last_turn - now)

    def next_end(self, running: int) -> float:
        """The delay until one of so many running calls has probably ended."""
        return _sane(self._held / max(running, 1))

    @property
    def _held(self) -> float:
        return self._guess if self.held.value is None else self.held.value


def _sane(delay: float) -> float:
    return min(max(delay, _SOONEST), _LATEST) * random.uniform(1 - _JITTER, 1 + _JITTER)
