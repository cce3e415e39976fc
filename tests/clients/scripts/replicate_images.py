"""Images by Replicate's own SDK."""

import os

import replicate
from acts import KEY, perform

client = replicate.Client(api_token=KEY, base_url=os.environ["GATEWAY_URL"])


def made(prompt, model="black-forest-labs/flux-schnell", **fields):
    return client.run(model, input={"prompt": prompt, **fields}, use_file_output=False, wait=False)


def links():
    return made("a fox", num_outputs=2, output_format="jpg")


def one_link():
    return made("a fox", "recraft-ai/recraft-v3", size="1365x1024")


def refused_prompt():
    made("a fox [code=1026]")


def no_balance():
    try:
        made("a fox [code=1008]")
    except replicate.exceptions.ReplicateError as error:
        return f"{error.status} {error.title}"


def account():
    return client.accounts.current().username


perform(links, one_link, refused_prompt, no_balance, account)
