"""Client API in OpenAI's images format (reference/openai-images.md)."""

from gateway.api.openai.request import Generation, OpenAIOptions, is_dall_e, parse_generation
from gateway.api.openai.response import (
    KEEP_ALIVE,
    render_error,
    render_error_event,
    render_events,
    render_generation,
    render_missing,
    render_model,
    render_models,
)

__all__ = [
    "KEEP_ALIVE",
    "Generation",
    "OpenAIOptions",
    "is_dall_e",
    "parse_generation",
    "render_error",
    "render_error_event",
    "render_events",
    "render_generation",
    "render_missing",
    "render_model",
    "render_models",
]
