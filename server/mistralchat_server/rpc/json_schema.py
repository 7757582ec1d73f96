"""What a JSON Schema must keep to so that all of it is enforced.

xgrammar, which enforces it, passes over keywords that it does not know, and over some that it knows where
others stand beside them (cpp/json_schema_converter.cc of mlc-ai/xgrammar). An answer would then conform
to less than was asked for, so such a schema is refused.
"""

import json
from collections.abc import Iterator
from typing import Any

MAX_DEPTH = 64

_NOTES = frozenset(
    (
        "$anchor",
        "$comment",
        "$defs",
        "$id",
        "$schema",
        "default",
        "definitions",
        "deprecated",
        "description",
        "examples",
        "readOnly",
        "title",
        "writeOnly",
    )
)
#: What a schema can be by one of these alone; nothing else beside it would be enforced.
_ALONE = ("$ref", "anyOf", "oneOf", "allOf")
#: They list the values themselves, so a type beside them adds nothing.
_VALUES = ("const", "enum")
_KEYWORDS = {
    "object": frozenset(("properties", "required", "additionalProperties", "minProperties", "maxProperties")),
    "array": frozenset(("items", "prefixItems", "minItems", "maxItems")),
    "string": frozenset(("minLength", "maxLength", "pattern", "format")),
    "number": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")),
    "integer": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")),
    "boolean": frozenset[str](),
    "null": frozenset[str](),
}
_FORMATS = frozenset(
    (
        "date",
        "date-time",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "json-pointer",
        "relative-json-pointer",
        "time",
        "uri",
        "uri-reference",
        "uri-template",
        "uuid",
    )
)


def faults(source: str) -> Iterator[str]:
    """What keeps a schema, given as JSON text, from being enforced; nothing if it can be."""
    try:
        schema = json.loads(source, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        yield f"must not be nested more than {MAX_DEPTH} levels deep"
    except json.JSONDecodeError as error:
        yield f"is not JSON: {error}"
    except ValueError:
        yield "must not hold a number that is infinite, no number, or of thousands of digits"
    else:
        if not isinstance(schema, dict):
            yield "must be a JSON object"
        elif _depth(schema) > MAX_DEPTH:
            yield f"must not be nested more than {MAX_DEPTH} levels deep"
        else:
            yield from dict.fromkeys(_schema_faults(schema))


def _no_constant(name: str) -> float:
    raise ValueError(name)


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError(digits)
    return number


def _depth(schema: object) -> int:
    depth, level = 0, [schema]
    while level:
        depth += 1
        level = [child for node in level for child in _children(node)]
    return depth


def _children(node: object) -> list[Any]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []


def _schema_faults(schema: Any) -> Iterator[str]:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        yield "must have a schema, an object or a truth value, wherever one is expected"
        return
    asked = schema.keys() - _NOTES
    yield from _keyword_faults(schema, asked)
    if "$ref" in schema and not str(schema["$ref"]).startswith("#"):
        yield "$ref must lie within the schema and begin with #"
    if schema.get("format", "date") not in _FORMATS:
        yield f"format must be one of {', '.join(sorted(_FORMATS))}"
    if len({"pattern", "format"} & asked) + bool({"minLength", "maxLength"} & asked) > 1:
        yield "pattern, format and a length cannot be combined"
    if len(_list(schema.get("allOf"))) > 1:
        yield "allOf with more than one schema is not enforced: merge them"
    for subschema in _subschemas(schema):
        yield from _schema_faults(subschema)


def _keyword_faults(schema: dict[str, Any], asked: set[str]) -> Iterator[str]:
    alone = next((keyword for keyword in _ALONE if keyword in asked), None)
    values = next((keyword for keyword in _VALUES if keyword in asked), None)
    types = [kind for kind in _list(schema.get("type")) if isinstance(kind, str)]
    if alone is not None:
        known = {alone}
        beside = f" beside {alone}"
    elif values is not None:
        known = {values, "type"}
        beside = f" beside {values}"
    elif types:
        known = {"type"}.union(*(_KEYWORDS.get(kind, frozenset()) for kind in types))
        # Cut, since a hostile schema repeats a long list of types for each of a thousand keywords.
        beside = f" in a schema of type {' or '.join(types)}"[:100]
    else:
        # Without a type the keywords tell it, as long as all belong to the same.
        fitting = [keywords for keywords in _KEYWORDS.values() if asked <= keywords]
        known = set(asked) if fitting else set()
        beside = " in a schema without a type"
    for keyword in sorted(asked - known):
        yield f"the keyword {keyword[:40]} would not be enforced{beside}"


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _subschemas(schema: dict[str, Any]) -> Iterator[Any]:
    for keyword in ("properties", "$defs", "definitions"):
        if isinstance(schema.get(keyword), dict):
            yield from schema[keyword].values()
    for keyword in ("anyOf", "oneOf", "allOf", "prefixItems"):
        yield from _list(schema.get(keyword))
    for keyword in ("items", "additionalProperties"):
        if keyword in schema:
            yield schema[keyword]
