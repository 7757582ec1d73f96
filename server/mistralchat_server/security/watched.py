"""Files that are read again when they change."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between two looks at the files.
_INTERVAL = 1.0
#: Of a file: when it was written, its size and its inode, which changes when a link is pointed elsewhere.
_Stamp = tuple[int, int, int]


class UnusableFileError(Exception):
    """Files do not hold what they must; one sentence for the operator that quotes none of their content."""


class Watched(Generic[T]):
    """What some files say, as of at most a second ago. Threads can share it.

    When changed files cannot be used, in the middle of being written for example, what they said before
    stays in force, and the log says so once.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        """`read` reads all files. Raises `UnusableFileError`, as `read` may."""
        self._paths = paths
        self._read = read
        self._lock = threading.Lock()
        # Before the files are read: what is written meanwhile is read next time.
        self._stamps = self._look()
        self._value = _readable(read)
        self._looked_at = time.monotonic()

    def current(self) -> T:
        """What the files say."""
        # A thread that finds another one looking takes what there is.
        if time.monotonic() - self._looked_at > _INTERVAL and self._lock.acquire(blocking=False):
            try:
                self._refresh()
            finally:
                self._lock.release()
        return self._value

    def _refresh(self) -> None:
        self._looked_at = time.monotonic()
        stamps = self._look()
        if stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            self._value = _readable(self._read)
        except UnusableFileError as error:
            log.warning("%s What was read before stays in force.", error)
        else:
            log.info("read again: %s", ", ".join(map(str, self._paths)))

    def _look(self) -> list[_Stamp | None]:
        return [_stamp(path) for path in self._paths]


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _readable(read: Callable[[], T]) -> T:
    try:
        return read()
    except OSError as error:
        raise UnusableFileError(f"Cannot read {error.filename}: {error.strerror}.") from error
