"""pydantic-ai's image generator."""

from acts import PORTRAIT, URL, perform
from pydantic_ai import BinaryImage
from pydantic_ai.images import ImageGenerator
from pydantic_ai.images.openai import OpenAIImageGenerationModel
from pydantic_ai.providers.openai import OpenAIProvider


def draw(prompt, images=None, settings=None, **provider):
    model = OpenAIImageGenerationModel("gpt-image-1", provider=OpenAIProvider(base_url=URL, **provider))
    made = ImageGenerator(model).generate_sync(prompt, images=images, settings=settings).image
    (_, declared) = made.media_type.split("/")
    assert made.data.startswith({"jpeg": b"\xff\xd8", "png": b"\x89PNG"}[declared])
    return made.data


def generate():
    return draw("a lighthouse")


def png():
    return draw("a door", settings={"openai_output_format": "png"})


def edit():
    return draw("in a garden", images=[BinaryImage(PORTRAIT.read_bytes(), media_type="image/png")])


def wrong_key():
    return draw("a thief", api_key="sk-wrong")


def moderation():
    return draw("[code=1026]")


perform(generate, png, edit, wrong_key, moderation)
