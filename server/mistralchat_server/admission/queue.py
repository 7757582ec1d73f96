"""A queue that is fair between callers."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class FairQueue(Generic[Item]):
    """Items of many callers; those of one caller keep their order.

    Which caller comes next is decided by what the queue is told of its load. Of equal ones, it is the one
    that has been in the queue for longer.
    """

    def __init__(self) -> None:
        #: Callers with items, in the order in which they came.
        self._callers: OrderedDict[str, OrderedDict[Item, None]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def put(self, caller: str, item: Item) -> None:
        """Adds an item behind the others of its caller."""
        self._callers.setdefault(caller, OrderedDict())[item] = None
        self._length += 1

    def take(self, load: Callable[[str], tuple[int, int]]) -> Item:
        """Removes the oldest item of the caller with the least load. Raises `ValueError` if there is none."""
        caller = min(self._callers, key=load)
        item = next(iter(self._callers[caller]))
        self.discard(caller, item)
        return item

    def discard(self, caller: str, item: Item) -> bool:
        """Removes an item; false if it is not there."""
        items = self._callers.get(caller)
        if items is None or item not in items:
            return False
        del items[item]
        self._length -= 1
        if not items:
            del self._callers[caller]
        return True

    def heaviest(self, load: Callable[[str], int]) -> str | None:
        """The caller with the most load, of those with items."""
        return max(self._callers, key=load, default=None)

    def oldest(self, caller: str) -> Item | None:
        """The caller's item that comes next."""
        return next(iter(self._callers.get(caller, ())), None)

    def newest(self, caller: str) -> Item | None:
        """The caller's item that comes last."""
        return next(reversed(self._callers.get(caller, OrderedDict())), None)
