"""Checks responses against the schemas of openapi.json."""

import json
from collections.abc import Mapping
from typing import Any, Final

from gateway.api.health import DOCUMENT

OPTIONAL_FIELDS: Final = (
    *("model", "n", "size", "quality", "style", "response_format", "output_format", "output_compression", "background"),
    *("moderation", "stream", "partial_images", "user", "safety_identifier", "metadata", "complexity"),
    *("aspect_ratio", "width", "height", "seed", "prompt_optimizer", "aigc_watermark", "subject_reference"),
)
"""Of a generation: OpenAI's without previews (reference/openai-images.md 1.2), and MiniMax's (minimax.md 1.2)."""
DESCRIBED: Final[Mapping[str, Any]] = json.loads(DOCUMENT.read_text("utf-8"))


SCHEMAS: Final[Mapping[str, Any]] = DESCRIBED["components"]["schemas"]


def resolve(node: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in node:
        target: Any = DESCRIBED
        for step in node["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        node = target
    return node


def enum(schema: str, field: str) -> set[str]:
    found = resolve(SCHEMAS[schema]["properties"][field])
    return {value for value in found["enum"] if value is not None}


def conform(value: object, schema: Mapping[str, Any], where: str) -> None:
    """Checks that every required key is present, and every present key is described."""
    schema = resolve(schema)
    parts = [schema, *schema.get("allOf", [])]
    properties: dict[str, Any] = {}
    for part in map(resolve, parts):
        properties |= part.get("properties", {})
        for inner in map(resolve, part.get("allOf", [])):
            properties |= inner.get("properties", {})
    if isinstance(value, dict) and properties:
        assert set() == set(value) - set(properties), where
        assert set() == set(schema.get("required", [])) - set(value), where
        for key, item in value.items():
            conform(item, properties[key], f"{where}.{key}")
    if isinstance(value, list) and "items" in schema:
        for item in value:
            conform(item, schema["items"], f"{where}[]")
    if "enum" in schema:
        assert value in schema["enum"], where
