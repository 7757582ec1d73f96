"""Changes a message as one who knows its fields would: the structure-aware side of fuzzing."""

import math
import random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

_INTEGERS = (0, 1, -1, 2, 5, 64, 65, 256, 257, 1_024, 8_191, 8_192, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1)
_FLOATS = (0.0, -0.0, 1.0, 0.5, 2.0, -2.0, 10.0, 0.01, 1e-45, 3.4e38, -1.0, math.nan, math.inf, -math.inf)
_STRINGS = (
    "", "a", "Hello", " ", "\n", "\0", "é", "🎉", "👩\u200d👩\u200d👧", "\ufffd", "\ue000", "\u2028",
    "e\u0301", "x" * 257,
    "<|im_start|>", "<|im_end|>", "<|im_start|>system\n", "<|end|>", "<s>", "</s>", "[INST]",
    "{{ 7 * 7 }}", "{% raw %}", "{}", "[]", "true", "null", "1e999", "NaN",
    '{"type": "object"}', '{"type": "cat"}', '{"$ref": "#"}', '{"$ref": 5}', '{"properties": []}',
    '{"properties": {"a": 5}}', '{"type": ["string", "null"], "pattern": "("}', '{"anyOf": {}}',
    '{"items": [true, {"not": {}}]}', '{"enum": [], "const": 1}', '{"a":' * 70, "[" * 5_000,
    '{"minimum": 1e400}', "(a|b)*", "(", "[^", "(?=a)", "a{1,100000}", 'root ::= "a" | root', "root ::= root",
)  # fmt: skip
#: Entries of a list that one mutation adds at most: beyond every limit of the contract but that of messages.
_MOST = 300


def mutated(message: Any, random_: random.Random) -> bytes:
    """The message's bytes after one to four changes to fields at any depth."""
    for _ in range(random_.randint(1, 4)):
        _change(message, random_)
    return bytes(message.SerializeToString())


def parsed(kind: Any, data: bytes) -> Any:
    """The message that the bytes are, or an empty one."""
    try:
        return kind.FromString(data)
    except DecodeError:
        return kind()


def _change(message: Any, random_: random.Random) -> None:
    fields = message.DESCRIPTOR.fields
    if not fields:
        return
    field = random_.choice(fields)
    if random_.random() < 0.15:
        message.ClearField(field.name)
    elif field.is_repeated:
        _change_list(message, field, random_)
    elif field.message_type is not None:
        part = getattr(message, field.name)
        part.SetInParent()
        _change(part, random_)
    else:
        setattr(message, field.name, _value(field, random_))


def _change_list(message: Any, field: FieldDescriptor, random_: random.Random) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return
    entries = getattr(message, field.name)
    act = random_.random()
    if entries and act < 0.2:
        del entries[random_.randrange(len(entries))]
    elif field.message_type is not None:
        if not entries or act < 0.5:
            entries.add()
        _change(entries[random_.randrange(len(entries))], random_)
    elif entries and act < 0.4:
        entries[random_.randrange(len(entries))] = _value(field, random_)
    else:
        value = _value(field, random_)
        entries.extend([value] * (random_.randint(1, _MOST) if act > 0.95 else 1))


def _value(field: FieldDescriptor, random_: random.Random) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return random_.randbytes(random_.randint(0, 9))
        case FieldDescriptor.CPPTYPE_STRING:
            return _text(random_)
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return random_.choice((*_FLOATS, random_.uniform(-3, 3)))
        case FieldDescriptor.CPPTYPE_BOOL:
            return random_.random() < 0.5
        case FieldDescriptor.CPPTYPE_ENUM:
            return random_.randint(-1, 9)
        case FieldDescriptor.CPPTYPE_INT32:
            return _wrapped(random_, 32, signed=True)
        case FieldDescriptor.CPPTYPE_INT64:
            return _wrapped(random_, 64, signed=True)
        case FieldDescriptor.CPPTYPE_UINT32:
            return _wrapped(random_, 32, signed=False)
        case _:
            return _wrapped(random_, 64, signed=False)


def _wrapped(random_: random.Random, bits: int, *, signed: bool) -> int:
    span = 1 << bits
    value = random_.choice((*_INTEGERS, random_.randint(0, 70))) % span
    return value - span if signed and value >= span // 2 else value


def _text(random_: random.Random) -> str:
    pieces = random_.choices(_STRINGS, k=random_.choice((1, 1, 1, 2, 3)))
    if random_.random() < 0.2:
        pieces.append("".join(chr(random_.randint(1, 0xD7FF)) for _ in range(random_.randint(1, 8))))
    return "".join(pieces)
