"""LlamaIndex's image tool, which asks for a link, or for base64 to save."""

from pathlib import Path

from acts import FOLDER, perform
from llama_index.tools.openai import OpenAIImageGenerationToolSpec

tool = OpenAIImageGenerationToolSpec(cache_dir=str(FOLDER))


def generate():
    return tool.image_generation("a lighthouse")


def download():
    (path,) = tool.image_generation("a harbour", download=True)
    return Path(path).read_bytes()


def wrong_key():
    return OpenAIImageGenerationToolSpec(api_key="sk-wrong").image_generation("a thief")


def moderation():
    return tool.image_generation("[code=1026]")


perform(generate, download, wrong_key, moderation)
