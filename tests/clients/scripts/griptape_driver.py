"""griptape's driver."""

from acts import KEY, PORTRAIT, URL, perform
from griptape.artifacts import ImageArtifact
from griptape.drivers.image_generation.openai import OpenAiImageGenerationDriver


def driver(model="gpt-image-1", api_key=KEY, **options):
    return OpenAiImageGenerationDriver(model=model, base_url=URL, api_key=api_key, max_attempts=1, **options)


def generate():
    return driver().run_text_to_image(["a lighthouse"]).value


def native():
    return driver("image-01").run_text_to_image(["a harbour"]).value


def png():
    return driver(output_format="png").run_text_to_image(["a door"]).value


def mask():
    portrait = ImageArtifact(PORTRAIT.read_bytes(), format="png", width=1024, height=1024)
    return driver().run_image_inpainting(["a hat"], portrait, portrait).value


def wrong_key():
    return driver(api_key="sk-wrong").run_text_to_image(["a thief"]).value


def moderation():
    return driver().run_text_to_image(["[code=1026]"]).value


perform(generate, native, png, mask, wrong_key, moderation)
