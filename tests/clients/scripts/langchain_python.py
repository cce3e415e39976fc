"""LangChain's DallEAPIWrapper, which reads the link."""

from acts import perform
from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper


def generate():
    return DallEAPIWrapper(model="dall-e-3").run("a lighthouse")


def native():
    return DallEAPIWrapper(model="image-01").run("a harbour")


def wrong_key():
    return DallEAPIWrapper(api_key="sk-wrong").run("a thief")


def moderation():
    return DallEAPIWrapper(model="dall-e-3").run("[code=1026]")


perform(generate, native, wrong_key, moderation)
