"""openai 3: files of batches, as OpenAI's guide uploads and reads them."""

import io
import itertools

import openai
from acts import FOLDER, perform

client = openai.OpenAI()
LINES = b'{"custom_id": "a", "method": "POST", "url": "/v1/images/generations", "body": {"prompt": "a cat"}}\n'
made = []


def told(holds):
    return str(holds).lower()


def create():
    path = FOLDER / "batchinput.jsonl"
    path.write_bytes(LINES)
    with path.open("rb") as file:
        made.append(client.files.create(file=file, purpose="batch"))
    return f"{made[0].filename} {made[0].bytes} {made[0].purpose} {made[0].expires_at - made[0].created_at}"


def create_from_memory():
    after = {"anchor": "created_at", "seconds": 3600}
    made.append(client.files.create(file=io.BytesIO(LINES), purpose="batch", expires_after=after))
    return f"{made[1].filename} {made[1].expires_at - made[1].created_at}"


def wait():
    return client.files.wait_for_processing(made[0].id).status


def pages():
    return told([found.id for found in client.files.list(limit=1)] == [found.id for found in made[::-1]])


def content():
    return told(client.files.content(made[0].id).read() == LINES)


def stream():
    with client.files.with_streaming_response.content(made[0].id) as answer:
        return told(b"".join(answer.iter_bytes(10)) == LINES)


def other_purpose():
    client.files.create(file=io.BytesIO(LINES), purpose="fine-tune")


def delete():
    return told(all(client.files.delete(found.id).deleted for found in itertools.chain(client.files.list(limit=1))))


def deleted():
    client.files.retrieve(made[0].id)


perform(create, create_from_memory, wait, pages, content, stream, other_purpose, delete, deleted)
