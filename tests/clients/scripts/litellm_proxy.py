"""LiteLLM's proxy in front of the gateway, asked by OpenAI's SDK."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import openai
from acts import FOLDER, KEY, PORTRAIT, URL, perform

MASTER_KEY = "sk-master"
START_TIMEOUT_S = 90


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def is_alive(url):
    try:
        with urllib.request.urlopen(f"{url}/health/liveliness", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


names = ("gpt-image-1", "dall-e-3")
parameters = {"api_base": URL, "api_key": KEY}
models = [{"model_name": name, "litellm_params": {"model": f"openai/{name}", **parameters}} for name in names]
config = {"model_list": models, "general_settings": {"master_key": MASTER_KEY}}
(FOLDER / "config.yaml").write_text(json.dumps(config))  # which is YAML, too
port = free_port()
command = [sys.executable, "-c", "from litellm import run_server; run_server()", "--config", FOLDER / "config.yaml"]
proxy = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)])
client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=MASTER_KEY, max_retries=0)


def generate():
    return client.images.generate(model="gpt-image-1", prompt="a lighthouse").data[0].b64_json


def link():
    return client.images.generate(model="dall-e-3", prompt="a harbour").data[0].url


def edit():
    with PORTRAIT.open("rb") as file:
        return client.images.edit(model="gpt-image-1", image=file, prompt="in a garden").data[0].b64_json


def moderation():
    return client.images.generate(model="gpt-image-1", prompt="[code=1026]").data[0].b64_json


try:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not is_alive(f"http://127.0.0.1:{port}"):
        assert time.monotonic() < deadline, "the proxy does not start"
        assert proxy.poll() is None, "the proxy ended"
        time.sleep(0.2)
    perform(generate, link, edit, moderation)
finally:
    proxy.kill()
    proxy.wait()
