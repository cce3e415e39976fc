"""LiteLLM's library."""

import litellm
from acts import KEY, PORTRAIT, URL, perform

GATEWAY = {"api_base": URL, "api_key": KEY}


def picture_of(answer):
    return answer.data[0].b64_json or answer.data[0].url


def generate():
    return picture_of(litellm.image_generation(model="openai/image-01", prompt="a lighthouse", **GATEWAY))


def dall_e():
    return picture_of(litellm.image_generation(model="openai/dall-e-3", prompt="a harbour", **GATEWAY))


def png():
    answer = litellm.image_generation(model="openai/gpt-image-1", prompt="a door", output_format="png", **GATEWAY)
    return picture_of(answer)


def edit():
    with PORTRAIT.open("rb") as file:
        answer = litellm.image_edit(model="openai/gpt-image-1", image=file, prompt="in a garden", **GATEWAY)
        return picture_of(answer)


def wrong_key():
    return picture_of(
        litellm.image_generation(model="openai/image-01", prompt="a thief", api_base=URL, api_key="sk-wrong")
    )


def moderation():
    return picture_of(litellm.image_generation(model="openai/dall-e-3", prompt="[code=1026]", **GATEWAY))


perform(generate, dall_e, png, edit, wrong_key, moderation)
