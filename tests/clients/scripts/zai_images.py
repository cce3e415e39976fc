"""Z.AI's SDK, for Zhipu's API."""

import os

from acts import KEY, perform
from zai import ZaiClient

client = ZaiClient(base_url=os.environ["GATEWAY_URL"] + "/zai/api/paas/v4", api_key=KEY, max_retries=0)


def link():
    made = client.images.generations(model="cogview-4", prompt="a fox", size="1344x768", quality="hd", user_id="u-1")
    return made.data[0].url


def no_watermark():
    return client.images.generations(model="glm-image", prompt="a fox", watermark_enabled=False).data[0].url


def refused_prompt():
    client.images.generations(model="cogview-4", prompt="a fox [code=1026]")


def busy():
    client.images.generations(model="cogview-4", prompt="a fox [code=1002]")


perform(link, no_watermark, refused_prompt, busy)
