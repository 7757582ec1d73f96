"""When there will be an executor again, as far as can be told: after how long callers are told to retry."""

import time
from collections.abc import Callable

#: Seconds that callers are told when nothing is known, and at least.
_UNKNOWN = 2.0
_LEAST = 0.5


class Outage:
    """An estimate from the time that the executor took to start, and the pause before it is started again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._usual = _UNKNOWN
        self._back_at: float | None = None

    def over(self, usual: float) -> None:
        """The executor answers. Should it end, the next will after `usual` seconds."""
        self._usual = usual
        self._back_at = None

    def lasts(self, seconds: float) -> None:
        """There is no executor, and none is to be expected for so long from now."""
        self._back_at = self._clock() + seconds

    @property
    def retry_after(self) -> float:
        """Seconds."""
        left = self._usual if self._back_at is None else self._back_at - self._clock()
        return max(left, _LEAST)
