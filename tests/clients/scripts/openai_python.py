"""openai 1, 2 and 3: the snippets of OpenAI's guide."""

import openai
from acts import PORTRAIT, perform

client = openai.OpenAI()


def generate():
    return client.images.generate(model="gpt-image-1", prompt="a lighthouse").data[0].b64_json


def link():
    return client.images.generate(model="dall-e-3", prompt="a lighthouse at dawn").data[0].url


def two():
    answer = client.images.generate(model="dall-e-3", prompt="two boats", n=2, response_format="b64_json")
    return [item.b64_json for item in answer.data]


def png():
    return client.images.generate(model="gpt-image-1", prompt="a door", output_format="png").data[0].b64_json


def webp():
    answer = client.images.generate(model="gpt-image-1", prompt="a key", output_format="webp", output_compression=80)
    return answer.data[0].b64_json


def stream():
    events = list(client.images.generate(model="gpt-image-1", prompt="a stream", stream=True))
    return [event.b64_json for event in events if event.type == "image_generation.completed"]


def edit():
    with PORTRAIT.open("rb") as file:
        return client.images.edit(model="gpt-image-1", image=file, prompt="in a garden").data[0].b64_json


def edit_of_a_list():
    with PORTRAIT.open("rb") as file:
        return client.images.edit(model="gpt-image-1", image=[file], prompt="by the sea").data[0].b64_json


def models():
    return ", ".join(model.id for model in client.models.list() if model.id.startswith("dall-e"))


def wrong_key():
    return openai.OpenAI(api_key="sk-wrong").images.generate(model="gpt-image-1", prompt="a thief").data[0].b64_json


def moderation():
    return client.images.generate(model="gpt-image-1", prompt="[code=1026]").data[0].b64_json


def unknown_model():
    return client.images.generate(model="painter", prompt="a painter").data[0].b64_json


def short_timeout():
    patient = openai.OpenAI(timeout=2)
    return patient.images.generate(model="gpt-image-1", prompt="[delay=4] a snail").data[0].b64_json


perform(
    generate,
    link,
    two,
    png,
    webp,
    stream,
    edit,
    edit_of_a_list,
    models,
    wrong_key,
    moderation,
    unknown_model,
    short_timeout,
)
