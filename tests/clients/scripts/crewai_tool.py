"""crewAI's DallETool, which reads the link."""

import json

from acts import perform
from crewai_tools import DallETool


def draw(prompt, **options):
    return json.loads(DallETool(**options).run(image_description=prompt))["image_url"]


def generate():
    return draw("a lighthouse")


def native():
    return draw("a harbour", model="image-01")


def moderation():
    return draw("[code=1026]")


perform(generate, native, moderation)
