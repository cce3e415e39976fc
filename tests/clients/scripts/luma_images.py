"""Luma's two SDKs."""

import base64
import os
import time

from acts import KEY, PORTRAIT, perform
from luma_agents import Luma
from lumaai import LumaAI

URL = os.environ["GATEWAY_URL"]
agents = Luma(base_url=f"{URL}/v1", auth_token=KEY, max_retries=0)
photon = LumaAI(base_url=f"{URL}/dream-machine/v1", auth_token=KEY, max_retries=0)


def ended(api, task):
    while task.state in {"queued", "processing", "dreaming"}:
        time.sleep(0.1)
        task = api.generations.get(task.id)
    return task


def image():
    task = agents.generations.create(prompt="a fox", model="uni-1", aspect_ratio="16:9", output_format="jpeg")
    return ended(agents, task).output[0].url


def edit():
    data = base64.b64encode(PORTRAIT.read_bytes()).decode()
    source = {"data": data, "media_type": "image/png"}
    task = agents.generations.create(prompt="a fox", model="uni-1-max", type="image_edit", source=source)
    return ended(agents, task).output[0].url


def moderated():
    return ended(agents, agents.generations.create(prompt="a fox [code=1027]")).failure_code


def busy():
    agents.generations.create(prompt="a fox [code=1041]", model="uni-1")


def without_balance():
    agents.generations.create(prompt="a fox [code=1008]", model="uni-1")


def wrong_key():
    agents.generations.create(prompt="a fox [code=2049]", model="uni-1")


def unknown_task():
    agents.generations.get("00000000-0000-0000-0000-000000000000")


def files():
    return f"{len(agents.files.list(limit=1).data)} files"


def photon_image():
    task = photon.generations.image.create(model="photon-1", prompt="a fox", aspect_ratio="4:3", format="png")
    return ended(photon, task).assets.image


def photon_moderated():
    task = photon.generations.image.create(model="photon-flash-1", prompt="a fox [code=1026]")
    return ended(photon, task).failure_reason


def balance():
    return f"{photon.credits.get().credit_balance:.0f} cents"


perform(
    *(image, edit, moderated, busy, without_balance, wrong_key, unknown_task, files),
    *(photon_image, photon_moderated, balance),
)
