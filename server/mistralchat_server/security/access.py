"""Which identity may call which service."""

from collections.abc import Collection, Mapping

_EVERYONE = "*"


class AccessTable:
    """By identity, such as `key:alice`; by kind, such as `jwt:*`; `*` is for all others.

    An empty table lets all call all.
    """

    def __init__(self, table: Mapping[str, Collection[str]]) -> None:
        self._table = table

    def allows(self, identity: str, service: str) -> bool:
        """The most exact entry decides; without any the answer is no."""
        if not self._table:
            return True
        kind = identity.partition(":")[0]
        for name in (identity, f"{kind}:{_EVERYONE}", _EVERYONE):
            if name in self._table:
                return service in self._table[name]
        return False
