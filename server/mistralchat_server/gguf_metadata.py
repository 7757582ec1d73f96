"""The key-value pairs of a GGUF file, for the tokenizer and the executor alike.

The reader is our own because gguf.GGUFReader makes an array for every string and takes seconds for a
vocabulary; this one takes a tenth of one. The format: docs/gguf.md of ggml-org/ggml.
"""

import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


class GGUFError(ValueError):
    """The file is no GGUF file, or holds something that cannot be used; one clear sentence."""


def read_metadata(path: Path) -> dict[str, Any]:
    """The key-value pairs of a GGUF file.

    Raises:
        GGUFError: the file is not a complete little-endian GGUF file of version 2 or 3.
        OSError: it cannot be read.
    """
    with _opened(path) as reader:
        return reader.metadata()


def missing_bytes(path: Path, block_sizes: Mapping[Any, tuple[int, int]]) -> int:
    """By how many bytes the file is shorter than its tensors want it to be; 0 for a whole one.

    `block_sizes` tells, for each type of tensor, how many values a block holds and how many bytes it
    takes. Raises what `read_metadata` raises, and GGUFError for a type that is not among them.
    """
    with _opened(path) as reader:
        return max(0, reader.end_of_tensors(block_sizes) - path.stat().st_size)


@contextmanager
def _opened(path: Path) -> Iterator["_Reader"]:
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield _Reader(data)
        except (struct.error, ValueError, KeyError) as error:
            raise GGUFError(f"{path.name} is not a complete GGUF file of version 2 or 3.") from error


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._offset = 0

    def metadata(self) -> dict[str, Any]:
        magic, version, self._tensors, pairs = self._unpack("4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError("magic or version")
        return {self._string(): self._value(self._scalar("I")) for _ in range(pairs)}

    def end_of_tensors(self, block_sizes: Mapping[Any, tuple[int, int]]) -> int:
        """Where in the file the last tensor ends."""
        alignment = self.metadata().get("general.alignment", 32)
        end = 0
        for _ in range(self._tensors):
            self._string()
            values = math.prod(self._unpack(f"{self._scalar('I')}Q"))
            kind, offset = self._unpack("IQ")
            block, size = block_sizes[kind]
            end = max(end, offset + values // block * size)
        return int(math.ceil(self._offset / alignment) * alignment + end)

    def _unpack(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{layout}", self._data, self._offset)
        self._offset += struct.calcsize(f"<{layout}")
        return values

    def _scalar(self, layout: str) -> Any:
        return self._unpack(layout)[0]

    def _string(self) -> str:
        start = self._offset + 8
        self._offset = start + self._scalar("Q")
        return self._data[start : self._offset].decode()

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            kind, length = self._unpack("IQ")
            if kind in _SCALARS:
                return list(self._unpack(f"{length}{_SCALARS[kind]}"))
            return [self._value(kind) for _ in range(length)]
        return self._scalar(_SCALARS[kind])
