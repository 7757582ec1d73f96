"""How many tokens a caller may use in a minute."""

from dataclasses import dataclass

#: Callers from which on the forgettable ones are looked for.
_MANY = 1_024


@dataclass(slots=True)
class _Bucket:
    tokens: float
    since: float


class Quota:
    """One token bucket for each caller: a minute's worth at most, refilled evenly.

    What a call uses is known when it is over, so a bucket may be overdrawn; its caller then waits until
    the debt is paid off. Moments are in seconds of one monotonic clock.
    """

    def __init__(self, tokens_per_minute: int) -> None:
        """0 is no limit."""
        self._capacity = tokens_per_minute
        self._buckets: dict[str, _Bucket] = {}
        self._prune_at = _MANY

    def wait(self, caller: str, now: float) -> float:
        """Seconds until the caller has tokens again; 0 if it has some."""
        bucket = self._buckets.get(caller)
        if bucket is None:
            return 0.0
        # A whole token, because a bucket that is merely not in debt would let calls trickle in.
        missing = 1 - self._level(bucket, now)
        return max(missing, 0) / self._capacity * 60

    def spend(self, caller: str, tokens: int, now: float) -> None:
        """Takes tokens out of the caller's bucket."""
        if not self._capacity or not tokens:
            return
        bucket = self._buckets.get(caller)
        level = self._capacity if bucket is None else self._level(bucket, now)
        self._buckets[caller] = _Bucket(level - tokens, now)
        if len(self._buckets) > self._prune_at:
            self._prune(now)

    def _level(self, bucket: _Bucket, now: float) -> float:
        return min(bucket.tokens + (now - bucket.since) * self._capacity / 60, self._capacity)

    def _prune(self, now: float) -> None:
        """Forgets full buckets: a caller without one has a full one."""
        self._buckets = {
            caller: bucket
            for caller, bucket in self._buckets.items()
            if self._level(bucket, now) < self._capacity
        }
        self._prune_at = max(_MANY, 2 * len(self._buckets))
