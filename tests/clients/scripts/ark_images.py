"""Volcengine's SDK, for Ark."""

import os
from base64 import b64encode

from acts import KEY, PORTRAIT, perform
from volcenginesdkarkruntime import Ark

MODEL = "doubao-seedream-4-0-250828"
client = Ark(base_url=os.environ["GATEWAY_URL"] + "/ark/api/v3", api_key=KEY, max_retries=0)


def link():
    made = client.images.generate(model=MODEL, prompt="a fox", size="1024x1024", watermark=False)
    assert (made.usage.generated_images, made.data[0].size) == (1, "1024x1024"), made
    return made.data[0].url


def in_base64():
    made = client.images.generate(model=MODEL, prompt="a fox", size="1024x1024", response_format="b64_json")
    return made.data[0].b64_json


def edit():
    image = "data:image/png;base64," + b64encode(PORTRAIT.read_bytes()).decode()
    return client.images.generate(model=MODEL, prompt="a hat", image=image, size="1024x1024").data[0].url


def withheld():
    made = client.images.generate(model=MODEL, prompt="a fox [fail=1]", size="1024x1024")
    return f"{made.data[0].error['code']} {made.usage.generated_images}"


def refused_prompt():
    client.images.generate(model=MODEL, prompt="a fox [code=1026]")


def busy():
    client.images.generate(model=MODEL, prompt="a fox [code=1002]")


perform(link, in_base64, edit, withheld, refused_prompt, busy)
