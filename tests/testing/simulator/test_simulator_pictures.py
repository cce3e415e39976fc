import asyncio
import io
from base64 import b64encode
from dataclasses import replace

import pytest
from PIL import Image

from gateway.testing.simulator.drawing import draw, reduce_reference
from gateway.testing.simulator.pictures import Gallery, Sketch

pytestmark = pytest.mark.anyio


def sketch(prompt: str, *, width: int = 512, height: int = 512, index: int = 0, seed: int | None = None) -> Sketch:
    return Sketch(prompt, width, height, index, seed)


def white_pixels(jpeg: bytes) -> int:
    with Image.open(io.BytesIO(jpeg)) as image:
        return sum(image.convert("L").histogram()[240:])


def test_square_image_is_as_large_as_a_plain_photograph() -> None:
    assert 60_000 <= len(draw(sketch("a fox", width=1024, height=1024))) <= 250_000


def test_same_sketch_gives_the_same_bytes_and_any_difference_others() -> None:
    assert draw(sketch("a fox")) == draw(sketch("a fox"))
    others = [sketch("a cat"), sketch("a fox", index=1), sketch("a fox", seed=1), sketch("a fox", width=520)]
    assert len({draw(other) for other in [sketch("a fox"), *others]}) == 5


def test_a_reference_gives_its_colours() -> None:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(file, "PNG")
    colours = reduce_reference(f"data:image/png;base64,{b64encode(file.getvalue()).decode()}")
    assert bytes([255, 0, 0]) * 6 == colours
    assert draw(sketch("a fox")) != draw(replace(sketch("a fox"), reference=colours))


def test_a_reference_that_is_not_opened_gives_its_own_colours() -> None:
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (2**16).to_bytes(4) * 2 + b"\x08\2\0\0\0\0\0\0\0"
    bombed = f"data:image/png;base64,{b64encode(bomb).decode()}"
    links = ("https://example.org/a.png", "https://example.org/b.png", "data:image/png;base64,AAAA", bombed, "")
    assert {18} == {len(reduce_reference(link)) for link in links}
    assert len(links) == len({reduce_reference(link) for link in links})


def test_prompt_is_written_on_the_image() -> None:
    assert white_pixels(draw(sketch(" "))) == 0
    assert white_pixels(draw(sketch("a fox in the snow"))) > 1000
    assert white_pixels(draw(sketch("fox " * 300))) > 1000


@pytest.mark.parametrize(
    "prompt", ["漫画你好", "مرحبا", "😀", "\x00\x07", "a\nb", "\u202e\u200b", "\ud800", " ", "m" * 1499]
)
def test_any_text_can_be_drawn(prompt: str) -> None:
    with Image.open(io.BytesIO(draw(sketch(prompt)))) as image:
        image.load()
        assert (image.format, image.size) == ("JPEG", (512, 512))


def test_padding_gives_the_exact_size_and_still_opens() -> None:
    padded = draw(sketch("a fox"), image_bytes=400_000)
    assert len(padded) == 400_000
    with Image.open(io.BytesIO(padded)) as image:
        image.load()
        assert image.size == (512, 512)


def test_padding_never_cuts_an_image() -> None:
    assert draw(sketch("a fox")) == draw(sketch("a fox"), image_bytes=10)


async def test_gallery_pads_and_draws_the_same_sketch_once() -> None:
    gallery = Gallery(image_bytes=300_000, brushes=1)
    drawn = await asyncio.gather(*(gallery.picture(sketch("a fox")) for _ in range(20)))
    assert len(drawn[0]) == 300_000
    assert len({id(picture) for picture in drawn}) == 1


async def test_gallery_forgets_the_oldest() -> None:
    gallery = Gallery(image_bytes=None, known_sketches=3, kept_pictures=2)
    for index in range(4):
        gallery.hang(f"{index}.jpg", sketch("a fox", index=index))
    assert await gallery.find("0.jpg") is None
    found = [await gallery.find(f"{index}.jpg") for index in (1, 2, 3)]
    assert [draw(sketch("a fox", index=index)) for index in (1, 2, 3)] == found
    assert len(gallery._pictures) == 2
