"""openai 0.28, which names no model and reads the link."""

import openai
from acts import PORTRAIT, perform


def link_of(answer):
    return answer["data"][0]["url"]


def generate():
    return link_of(openai.Image.create(prompt="a lighthouse", n=1, size="1024x1024"))


def edit():
    with PORTRAIT.open("rb") as file:
        return link_of(openai.Image.create_edit(image=file, prompt="in a garden", n=1, size="1024x1024"))


def mask():
    with PORTRAIT.open("rb") as file, PORTRAIT.open("rb") as hidden:
        return link_of(openai.Image.create_edit(image=file, mask=hidden, prompt="a hat", n=1, size="1024x1024"))


def wrong_key():
    return link_of(openai.Image.create(prompt="a thief", api_key="sk-wrong"))


def moderation():
    return link_of(openai.Image.create(prompt="[code=1026]"))


perform(generate, edit, mask, wrong_key, moderation)
