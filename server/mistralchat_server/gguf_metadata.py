"""The key-value pairs of a GGUF file, for the tokenizer and the executor alike.

The reader is our own because gguf.GGUFReader makes an array for every string and takes seconds for a
vocabulary; this one takes a tenth of one. The format: docs/gguf.md of ggml-org/ggml.
"""

import mmap
import struct
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
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(data).metadata()
        except (struct.error, ValueError, KeyError) as error:
            raise GGUFError(f"{path.name} is not a complete GGUF file of version 2 or 3.") from error


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._offset = 0

    def metadata(self) -> dict[str, Any]:
        magic, version, _tensors, pairs = self._unpack("4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError("magic or version")
        return {self._string(): self._value(self._scalar("I")) for _ in range(pairs)}

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
