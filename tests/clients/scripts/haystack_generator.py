"""Haystack's OpenAIImageGenerator, which reads base64 and waits 30 s."""

from acts import URL, perform
from haystack.components.generators import OpenAIImageGenerator
from haystack.utils import Secret


def draw(prompt, model="gpt-image-1", **options):
    return OpenAIImageGenerator(model=model, api_base_url=URL, **options).run(prompt)["images"]


def generate():
    return draw("a lighthouse")


def dall_e():
    return draw("a harbour", "dall-e-3")


def wrong_key():
    return draw("a thief", api_key=Secret.from_token("sk-wrong"))


def moderation():
    return draw("[code=1026]")


def short_timeout():
    return draw("[delay=4] a snail", timeout=2)


perform(generate, dall_e, wrong_key, moderation, short_timeout)
