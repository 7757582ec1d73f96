"""A schema of which a part would be passed over is refused, naming the part."""

import json
from typing import Any

import pytest

from mistralchat_server.rpc.json_schema import faults


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "properties": {"a": {"type": "string", "maxLength": 9}}, "required": ["a"]},
        {"type": "object", "properties": {}, "additionalProperties": False, "title": "t", "$schema": "s"},
        {"type": ["string", "null"], "maxLength": 4},
        {"properties": {"a": True}},
        {"type": "string", "enum": ["a", "b"], "description": "d"},
        {"const": 5},
        {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]},
        {"oneOf": [{"type": "integer"}, {"type": "string"}]},
        {"allOf": [{"type": "integer"}]},
        {"$ref": "#/$defs/node", "$defs": {"node": {"type": "array", "items": {"$ref": "#/$defs/node"}}}},
        {"type": "array", "prefixItems": [{"type": "integer"}], "items": False, "minItems": 1},
        {"type": "string", "format": "date-time"},
        {"type": "string", "pattern": "[a-z]+"},
    ],
    ids=json.dumps,
)
def test_what_is_enforced_has_no_fault(schema: dict[str, Any]) -> None:
    assert list(faults(json.dumps(schema))) == []


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "integer", "multipleOf": 5}, "multipleOf"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "contains": {"type": "integer"}}, "contains"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "object", "patternProperties": {"^a": {}}}, "patternProperties"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"type": "string", "minimum": 3}, "minimum"),
        ({"anyOf": [{"type": "string"}], "type": "string"}, "type"),
        ({"$ref": "#/$defs/a", "maxLength": 3, "$defs": {"a": {}}}, "maxLength"),
        ({"$ref": "http://example.com/schema"}, "$ref"),
        ({"$ref": 5}, "$ref"),
        ({"allOf": [{"type": "string"}, {"maxLength": 3}]}, "allOf"),
        ({"type": "string", "format": "banana"}, "format"),
        ({"type": "string", "pattern": "a+", "maxLength": 3}, "pattern"),
        ({"items": {"properties": {"a": {"bogus": 1}}}}, "bogus"),
        ({"items": 5}, "a schema"),
        ({"anyOf": ["string"]}, "a schema"),
    ],
    ids=str,
)
def test_what_would_be_passed_over_is_named(schema: dict[str, Any], named: str) -> None:
    (fault,) = faults(json.dumps(schema))
    assert named in fault


def test_the_same_fault_is_told_once() -> None:
    schema = {"prefixItems": [{"bogus": 1}, {"bogus": 1}]}
    assert len(list(faults(json.dumps(schema)))) == 1
