"""Semantic Kernel's OpenAITextToImage."""

from acts import PORTRAIT, perform
from openai import AsyncOpenAI
from semantic_kernel.connectors.ai.open_ai import OpenAITextToImage


def service(model="gpt-image-1", **options):
    return OpenAITextToImage(ai_model_id=model, async_client=AsyncOpenAI(**options))


def generate():
    return service().generate_image("a lighthouse")


def native():
    return service("image-01").generate_image("a harbour")


def edit():
    return service().edit_image(prompt="in a garden", image_paths=[str(PORTRAIT)])


def wrong_key():
    return service(api_key="sk-wrong").generate_image("a thief")


def moderation():
    return service().generate_image("[code=1026]")


perform(generate, native, edit, wrong_key, moderation)
