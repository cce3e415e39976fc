"""Images by fal.ai's own SDK. It knows https only, so its address is replaced."""

import os

import fal_client.client
from acts import KEY, perform

fal_client.client.QUEUE_URL_FORMAT = os.environ["GATEWAY_URL"] + "/"
client = fal_client.client.SyncClient(key=KEY)


def made(prompt, **fields):
    return client.subscribe("fal-ai/flux/dev", {"prompt": prompt, **fields}, client_timeout=60)


def links():
    size = {"width": 1024, "height": 768}
    return [image["url"] for image in made("a fox", num_images=2, image_size=size)["images"]]


def withheld():
    return str(made("a fox [code=1027]")["has_nsfw_concepts"])


def refused_prompt():
    try:
        made("a fox [code=1026]")
    except fal_client.client.FalClientHTTPError as error:
        return f"{error.status_code} {error.message[0]['type']}"


def no_balance():
    made("a fox [code=1008]")


perform(links, withheld, refused_prompt, no_balance)
