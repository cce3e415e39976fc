"""Google's SDK at the simulator, which must be what the SDK expects of Google."""

from acts import KEY, PORTRAIT, URL, perform
from google import genai
from google.genai import errors, types

MODEL = "gemini-2.5-flash-image"
SETTINGS = types.GenerateContentConfig(
    response_modalities=["IMAGE"], image_config=types.ImageConfig(aspect_ratio="3:2")
)


def client(key: str = KEY, version: str | None = None) -> genai.Client:
    return genai.Client(api_key=key, http_options=types.HttpOptions(base_url=URL, api_version=version))


def made(prompt: object, config: object = None, *, version: str | None = None) -> list[bytes]:
    with client(version=version) as google:
        response = google.models.generate_content(model=MODEL, contents=prompt, config=config)
    tokens = {one.modality.value: one.token_count for one in response.usage_metadata.candidates_tokens_details}
    assert {"IMAGE": 1120} == tokens
    assert types.FinishReason.STOP is response.candidates[0].finish_reason
    return [part.inline_data.data for part in response.parts]


def refusal(prompt: str, key: str = KEY) -> str:
    try:
        with client(key) as google:
            response = google.models.generate_content(model=MODEL, contents=prompt)
    except errors.APIError as error:
        return f"{type(error).__name__} {error.code} {error.status}"
    if response.candidates:
        return response.candidates[0].finish_reason.value
    return response.prompt_feedback.block_reason.value


def generate():
    return made("a fox", SETTINGS)


def older_version():
    return made("a fox", version="v1beta")


def edit():
    return made(["in red", types.Part.from_bytes(data=PORTRAIT.read_bytes(), mime_type="image/png")])


def models():
    with client(version="v1beta") as google:
        return str(f"models/{MODEL}" in [model.name for model in google.models.list()])


def refused_prompt():
    return refusal("a fox [code=1026]")


def refused_image():
    return refusal("a fox [fail=1]")


def no_image():
    return refusal("a fox [empty]")


def wrong_key():
    return refusal("a fox", "dead-1")


def no_billing():
    return refusal("a fox", "broke-1")


def rate_limited():
    return refusal("a fox [code=1002]")


def overloaded():
    return refusal("a fox [code=1033]")


perform(
    *(generate, older_version, edit, models, refused_prompt, refused_image, no_image, wrong_key, no_billing),
    *(rate_limited, overloaded),
)
