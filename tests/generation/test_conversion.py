"""Conversions of single images: what a viewer sees afterwards, and what happens to those that cannot be converted."""

import asyncio
import base64
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from PIL import Image, ImageCms

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import Base64Image, Format, ImageUrl, InputImage, Picture, Role
from gateway.generation.codec_process import CodecProcess
from gateway.generation.conversion import ImageConverter
from gateway.generation.memory_budget import ByteAccount, ByteBudget
from gateway.observability.metrics import Metrics
from tests.support.harness import wait_until
from tests.support.pictures import declared, declared_webp

pytestmark = pytest.mark.anyio

SIZE: Final = (48, 32)
RED, BLUE, CLEAR = (200, 30, 40), (20, 40, 220), (0, 0, 0, 0)
SRGB: Final = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE: Final = SRGB[:16] + b"GRAY" + SRGB[20:]
ORIENTATION: Final = 0x0112


def pattern(mode: str = "RGB") -> Image.Image:
    """Red on the left, blue on the right; the lower half is transparent, if the mode can be."""
    image = Image.new("RGBA", SIZE, (*RED, 255))
    image.paste((*BLUE, 255), (24, 0, 48, 32))
    if mode in {"RGBA", "LA", "PA"}:
        image.paste(CLEAR, (0, 16, 48, 32))
    if mode == "P":
        return image.convert("RGB").quantize(4)
    return image.convert(mode)


def saved(image: Image.Image, form: str, **options: Any) -> Base64Image:
    file = io.BytesIO()
    image.save(file, form, **options)
    return encoded(file.getvalue())


def encoded(data: bytes) -> Base64Image:
    return Base64Image(memoryview(base64.b64encode(data)))


def opened(picture: Picture | None) -> Image.Image:
    assert isinstance(picture, Base64Image)
    image = Image.open(io.BytesIO(base64.b64decode(picture.base64, validate=True)))
    image.load()
    return image


def turned(orientation: int) -> Base64Image:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return saved(pattern(), "JPEG", exif=exif, quality=95)


def animated(form: str) -> Base64Image:
    frames = [Image.new("RGB", SIZE, colour) for colour in (RED, BLUE, RED)]
    return saved(frames[0], form, save_all=True, append_images=frames[1:], duration=100, lossless=True)


def is_close(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(abs(a - b) <= 12 for a, b in zip(one, other, strict=True))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture(scope="module")
def processes() -> Iterator[list[CodecProcess]]:
    """For all tests that do not end them: as many as a converter has slots."""
    idle = [CodecProcess(), CodecProcess()]
    yield idle
    for process in idle:
        process.close()


@pytest.fixture
def converter(metrics: Metrics, processes: list[CodecProcess]) -> ImageConverter:
    return ImageConverter(metrics, _processes=processes)


@pytest.fixture
def own_converter(metrics: Metrics) -> Iterator[ImageConverter]:
    made = ImageConverter(metrics)
    yield made
    asyncio.run(made.close())


async def convert(converter: ImageConverter, picture: Picture, form: Format, quality: int | None = None) -> Image.Image:
    account = ByteAccount()
    account.note(len(picture.base64) if isinstance(picture, Base64Image) else 0)
    converted = await converter.convert((picture,), form, quality, account)
    assert converted is not None, "it was not converted"
    [only] = converted
    assert isinstance(only, Base64Image)
    assert len(only.base64) == account.held_bytes
    return opened(only)


def results(metrics: Metrics) -> dict[tuple[str, str], float]:
    found = next(family for family in metrics.registry.collect() if family.name == "imagegate_conversions")
    return {(one.labels["format"], one.labels["result"]): one.value for one in found.samples}


SOURCES: Final[dict[str, Base64Image]] = {
    "JPEG": saved(pattern(), "JPEG", quality=95),
    "progressive JPEG": saved(pattern(), "JPEG", quality=95, progressive=True),
    "grey JPEG": saved(pattern("L"), "JPEG", quality=95),
    "CMYK JPEG": saved(pattern("CMYK"), "JPEG", quality=95),
    "PNG": saved(pattern(), "PNG"),
    "palette PNG": saved(pattern("P"), "PNG"),
    "grey PNG": saved(pattern("L"), "PNG"),
    "black and white PNG": saved(pattern("1"), "PNG"),
    "WebP": saved(pattern(), "WEBP", lossless=True),
    "GIF": saved(pattern("P"), "GIF"),
    "animated GIF": animated("GIF"),
    "animated WebP": animated("WEBP"),
    "animated PNG": animated("PNG"),
}
FORMATS: Final = (Format.JPEG, Format.PNG, Format.WEBP)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.value)
@pytest.mark.parametrize("source", list(SOURCES))
async def test_every_kind_of_image_looks_the_same_in_every_format(
    converter: ImageConverter, source: str, form: Format
) -> None:
    expected = opened(SOURCES[source]).convert("RGB")
    found = await convert(converter, SOURCES[source], form)
    assert (form.value.upper(), SIZE) == (found.format, found.size)
    for place in ((4, 4), (40, 4), (4, 28), (40, 28)):
        was, became = expected.getpixel(place), found.convert("RGB").getpixel(place)
        assert isinstance(was, tuple)
        assert isinstance(became, tuple)
        assert is_close(was, became), place


@pytest.mark.parametrize("source", ["JPEG", "progressive JPEG", "WebP", "grey JPEG"])
async def test_png_is_lossless(converter: ImageConverter, source: str) -> None:
    found = await convert(converter, SOURCES[source], Format.PNG)
    assert opened(SOURCES[source]).convert("RGB").tobytes() == found.convert("RGB").tobytes()


TRANSPARENT: Final[dict[str, Base64Image]] = {
    "PNG": saved(pattern("RGBA"), "PNG"),
    "grey PNG": saved(pattern("LA"), "PNG"),
    "palette PNG": saved(pattern("RGBA").quantize(8), "PNG"),
    "PNG with a transparent colour": saved(pattern(), "PNG", transparency=RED),
    "WebP": saved(pattern("RGBA"), "WEBP", lossless=True),
    "GIF": saved(pattern("RGBA"), "GIF"),
}


@pytest.mark.parametrize("source", list(TRANSPARENT))
async def test_jpeg_shows_what_is_transparent_on_white(converter: ImageConverter, source: str) -> None:
    found = await convert(converter, TRANSPARENT[source], Format.JPEG)
    pixel = found.convert("RGB").getpixel((4, 26))
    assert isinstance(pixel, tuple)
    assert is_close((255, 255, 255), pixel)


@pytest.mark.parametrize("form", [Format.PNG, Format.WEBP])
@pytest.mark.parametrize("source", list(TRANSPARENT))
async def test_transparency_is_kept_where_the_format_has_it(
    converter: ImageConverter, source: str, form: Format
) -> None:
    found = await convert(converter, TRANSPARENT[source], form)
    alpha = found.convert("RGBA").getchannel("A")
    assert (0, 255) == (alpha.getpixel((4, 26)), alpha.getpixel((40, 4)))


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.value)
@pytest.mark.parametrize("orientation", range(1, 9))
async def test_an_orientation_is_applied_to_the_pixels(
    converter: ImageConverter, orientation: int, form: Format
) -> None:
    found = await convert(converter, turned(orientation), form, 99)
    if found.format == "JPEG" and orientation == 1:
        return  # the same file, if it did not become smaller
    assert (SIZE if orientation <= 4 else SIZE[::-1]) == found.size
    assert 1 == found.getexif().get(ORIENTATION, 1)
    left, right = found.convert("RGB").getpixel((3, 3)), found.convert("RGB").getpixel((found.width - 4, 3))
    colours = {1: (RED, BLUE), 2: (BLUE, RED), 3: (BLUE, RED), 4: (RED, BLUE), 5: (RED, RED), 6: (RED, RED)}
    for pixel, expected in zip((left, right), colours.get(orientation, (BLUE, BLUE)), strict=True):
        assert isinstance(pixel, tuple)
        assert is_close(expected, pixel)


@pytest.mark.parametrize("form", [Format.PNG, Format.WEBP])
async def test_a_profile_is_kept_if_it_fits_the_pixels(converter: ImageConverter, form: Format) -> None:
    for mode, profile, is_kept in (
        ("RGB", SRGB, True),
        ("L", SRGB, False),
        ("RGB", GREY_PROFILE, False),
        ("CMYK", SRGB[:16] + b"CMYK" + SRGB[20:], False),
    ):
        found = await convert(converter, saved(pattern(mode), "JPEG", icc_profile=profile), form)
        assert (profile if is_kept else None) == found.info.get("icc_profile"), mode


async def test_a_grey_profile_is_kept_by_a_grey_png(converter: ImageConverter) -> None:
    found = await convert(converter, saved(pattern("L"), "JPEG", icc_profile=GREY_PROFILE), Format.PNG)
    assert ("L", GREY_PROFILE) == (found.mode, found.info["icc_profile"])


async def test_other_metadata_is_dropped(converter: ImageConverter) -> None:
    exif = Image.Exif()
    exif[0x010E] = "where it was made"
    source = saved(pattern(), "JPEG", exif=exif, comment=b"by whom", xmp=b"<x:xmpmeta/>")
    for form in (Format.PNG, Format.WEBP):
        found = await convert(converter, source, form)
        assert {} == dict(found.getexif())
        assert not {"exif", "comment", "xmp"} & set(found.info)


@pytest.mark.parametrize("quality", [None, 100])
@pytest.mark.parametrize(("source", "form"), [("JPEG", Format.JPEG), ("PNG", Format.PNG), ("WebP", Format.WEBP)])
async def test_an_image_that_has_the_format_is_left_alone(
    converter: ImageConverter, metrics: Metrics, source: str, form: Format, quality: int | None
) -> None:
    picture, account = SOURCES[source], ByteAccount()
    link = ImageUrl("https://images.test/1.jpg")
    converted = await converter.convert((picture, link), form, quality, account)
    assert converted is not None
    assert [id(picture), id(link)] == [id(one) for one in converted]
    assert (0, {}) == (account.held_bytes, results(metrics))


@pytest.mark.parametrize("form", [Format.JPEG, Format.WEBP])
async def test_an_image_that_has_the_format_is_encoded_again_if_that_makes_it_smaller(
    converter: ImageConverter, form: Format
) -> None:
    noise = Image.effect_noise((256, 256), 80).convert("RGB")
    fine, coarse = saved(noise, form.value, quality=90), saved(noise, form.value, quality=10)
    account = ByteAccount()
    smaller = await converter.convert((fine,), form, 20, account)
    same = await converter.convert((coarse,), form, 95, account)
    assert smaller is not None
    assert isinstance(smaller[0], Base64Image)
    assert len(smaller[0].base64) < len(fine.base64) * 3 / 4
    assert (coarse,) == same
    assert len(smaller[0].base64) - len(fine.base64) == account.held_bytes


async def test_png_ignores_the_quality(converter: ImageConverter) -> None:
    one, other = [await convert(converter, SOURCES["JPEG"], Format.PNG, quality) for quality in (5, 100)]
    assert one.tobytes() == other.tobytes()


def _scanned(scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = base64.b64decode(SOURCES["progressive JPEG"].base64)
    head, _, last = data.removesuffix(b"\xff\xd9").rpartition(b"\xff\xda")
    return head + (b"\xff\xda" + last) * (scans - head.count(b"\xff\xda")) + b"\xff\xd9"


HALF: Final = base64.b64decode(SOURCES["JPEG"].base64)[:400]
UNREADABLE: Final[dict[str, tuple[Base64Image, str]]] = {
    "a JPEG without content": (Base64Image(memoryview(b"/9j/" + b"AAAA" * 50)), "unreadable"),
    "a truncated JPEG": (encoded(HALF), "unreadable"),
    "a JPEG of many scans": (encoded(_scanned(101)), "unreadable"),
    "16-bit grey": (saved(Image.new("I;16", SIZE), "PNG"), "unreadable"),
    "a bomb of 34 megapixels": (encoded(declared(8192, 4097)), "too_large"),
    "a bomb of 100 megapixels": (encoded(declared(10_000, 10_000)), "too_large"),
    "a bomb of 4 gigapixels": (encoded(declared(65_535, 65_535)), "unreadable"),
    "a PNG without its pixels": (encoded(declared(5000, 5000)), "unreadable"),
}
"""Images that cannot be converted. Pillow's own limit refuses the largest bomb."""


@pytest.mark.parametrize("kind", list(UNREADABLE))
async def test_what_cannot_be_converted_is_left_as_it_is(
    converter: ImageConverter, metrics: Metrics, kind: str
) -> None:
    picture, result = UNREADABLE[kind]
    account = ByteAccount()
    assert await converter.convert((picture,), Format.WEBP, None, account) is None
    assert {("webp", result): 1} == results(metrics)
    assert 0 == account.held_bytes


async def test_many_scans_are_no_harm_below_the_bound(converter: ImageConverter) -> None:
    picture = encoded(_scanned(100))
    assert (await convert(converter, picture, Format.PNG)).size == SIZE


async def test_one_that_cannot_leaves_all_as_they_are(converter: ImageConverter, metrics: Metrics) -> None:
    account, broken = ByteAccount(), UNREADABLE["a truncated JPEG"][0]
    assert await converter.convert((SOURCES["JPEG"], broken), Format.PNG, None, account) is None
    assert {("png", "converted"): 1, ("png", "unreadable"): 1} == results(metrics)
    assert 0 == account.held_bytes


async def test_no_more_wait_than_could_be_converted(metrics: Metrics) -> None:
    converter, picture, account = ImageConverter(metrics, _queued_max=3), SOURCES["JPEG"], ByteAccount()
    made = await asyncio.gather(*(converter.convert((picture,), Format.PNG, None, account) for _ in range(5)))
    assert [True] * 3 + [False] * 2 == [one is not None for one in made]
    assert {("png", "converted"): 3, ("png", "queue_full"): 2} == results(metrics)
    assert await converter.convert((picture,), Format.PNG, None, account) is not None
    await converter.close()


def given(picture: Base64Image, role: Role = Role.IMAGE) -> InputImage:
    return InputImage(role, b'"data:image/webp;base64,%b"' % bytes(picture.base64), Format.WEBP)


async def test_an_input_becomes_a_png_of_the_same_pixels(converter: ImageConverter) -> None:
    account = ByteAccount()
    found = await converter.convert_input(given(SOURCES["WebP"], Role.MASK), account)
    content = base64.b64decode(found.link[len(b'"data:image/png;base64,') : -1], validate=True)
    assert (Role.MASK, Format.PNG, len(content)) == (found.role, found.format, found.size_bytes)
    with Image.open(io.BytesIO(content)) as shown:
        assert ("PNG", pattern().tobytes()) == (shown.format, shown.tobytes())
    assert len(found.link) == account.held_bytes


@pytest.mark.parametrize("size", [(4097, 4096), (10_000, 10_000), (16_383, 16_383)], ids=str)
async def test_an_input_of_many_pixels_is_refused(converter: ImageConverter, size: tuple[int, int]) -> None:
    account = ByteAccount()
    with pytest.raises(GatewayError, match="more than 16777216 pixels") as refused:
        await converter.convert_input(given(encoded(declared_webp(*size))), account)
    assert (ErrorCode.INVALID_VALUE, "image", 0) == (refused.value.error_code, refused.value.param, account.held_bytes)


async def test_a_flood_of_inputs_leaves_room_for_images_that_are_paid_for(metrics: Metrics) -> None:
    converter, account = ImageConverter(metrics, _processes=[CodecProcess()]), ByteAccount()
    converter._slots = asyncio.Semaphore(1)
    await converter._slots.acquire()
    flood = [asyncio.ensure_future(converter.convert_input(given(SOURCES["WebP"]), account)) for _ in range(12)]
    paid = asyncio.ensure_future(converter.convert((SOURCES["JPEG"],), Format.PNG, None, account))
    await asyncio.sleep(0)
    converter._slots.release()
    assert await paid is not None
    ended = await asyncio.gather(*flood, return_exceptions=True)
    refused = [one.error_code for one in ended if isinstance(one, GatewayError)]
    assert ([ErrorCode.MEMORY_FULL] * 4, 8) == (refused, sum(isinstance(one, InputImage) for one in ended))
    await converter.close()


async def test_an_image_that_waits_too_long_is_left_as_it_is(metrics: Metrics) -> None:
    """The process takes longer to start."""
    converter, account = ImageConverter(metrics, _timeout_s=0.01), ByteAccount()
    assert await converter.convert((SOURCES["JPEG"],), Format.PNG, None, account) is None
    assert {("png", "timeout"): 1} == results(metrics)
    assert 0 == account.held_bytes
    converter._timeout_s = 30.0
    assert await converter.convert((SOURCES["JPEG"],), Format.PNG, None, account) is not None
    await converter.close()


async def test_the_pixels_count_while_they_are_there(converter: ImageConverter) -> None:
    """A budget that is full of what others hold has no room for them, and gets it when they end."""
    budget = ByteBudget(100_000)
    other, own = ByteAccount(budget, "other"), ByteAccount(budget, "own")
    first = ByteAccount(budget, "own")
    first.budget.over_budget = first.budget.over_share["own"] = first
    other.note(99_000)
    converting = asyncio.ensure_future(converter.convert((SOURCES["JPEG"],), Format.PNG, None, own))
    await asyncio.sleep(0.2)
    assert not converting.done()
    other.note(-99_000)
    converted = await converting
    assert converted is not None
    assert isinstance(converted[0], Base64Image)
    assert len(converted[0].base64) - len(SOURCES["JPEG"].base64) == own.held_bytes


async def test_a_cancelled_request_gives_everything_back(converter: ImageConverter) -> None:
    account, large = ByteAccount(), saved(Image.effect_noise((1024, 1024), 60).convert("RGB"), "JPEG")
    converting = asyncio.ensure_future(converter.convert((large,) * 4, Format.PNG, None, account))
    await asyncio.sleep(0.05)
    converting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await converting
    account.close()
    assert (0, 0) == (account.budget.held_bytes, converter._queued)


def children() -> list[int]:
    """The processes that convert for this one."""
    lists = (file.read_text().split() for file in Path(f"/proc/{os.getpid()}/task").glob("*/children"))
    pids = [int(pid) for pids in lists for pid in pids]
    return [pid for pid in pids if b"gateway.generation.image_codec" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


async def test_a_process_without_secrets_that_gives_way_to_others_reads_the_images(
    own_converter: ImageConverter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AI302_API_KEY", "a-secret")
    before = set(children())
    assert await own_converter.convert((SOURCES["JPEG"],), Format.PNG, None, ByteAccount()) is not None
    [child] = set(children()) - before
    assert b"a-secret" not in environment(child)
    assert os.getpriority(os.PRIO_PROCESS, child) >= 10
    await own_converter.close()
    assert child not in children()


async def test_a_process_that_dies_is_replaced(own_converter: ImageConverter, metrics: Metrics) -> None:
    before = set(children())
    for _ in range(2):
        assert await own_converter.convert((SOURCES["JPEG"],), Format.PNG, None, ByteAccount()) is not None
        [child] = set(children()) - before
        os.kill(child, signal.SIGKILL)
        assert await own_converter.convert((SOURCES["JPEG"],), Format.PNG, None, ByteAccount()) is None
    assert {("png", "converted"): 2, ("png", "unreadable"): 2} == results(metrics)


async def test_a_conversion_that_is_given_up_does_not_go_on(own_converter: ImageConverter) -> None:
    before = set(children())
    account = ByteAccount()
    large = saved(Image.effect_noise((4000, 4000), 60).convert("RGB"), "JPEG")
    converting = asyncio.ensure_future(own_converter.convert((large,), Format.WEBP, None, account))
    await asyncio.to_thread(wait_until, lambda: account.held_bytes > 0, "it is read")
    [child] = set(children()) - before
    converting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await converting
    await asyncio.to_thread(wait_until, lambda: child not in children(), "its process has ended")
    assert await own_converter.convert((SOURCES["JPEG"],), Format.PNG, None, account) is not None


@pytest.mark.parametrize(("form", "size"), [("PNG", (8, 6)), ("WEBP", (8, 6)), ("PNG", (9, 7))])
async def test_a_grid_is_cut_into_its_quarters_by_rows(
    converter: ImageConverter, form: str, size: tuple[int, int]
) -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0)]
    grid, account = Image.new("RGB", size, "white"), ByteAccount()
    for index, colour in enumerate(colours):
        left, top = index % 2 * (size[0] - size[0] // 2), index // 2 * (size[1] - size[1] // 2)
        grid.paste(colour, (left, top, left + size[0] // 2, top + size[1] // 2))
    whole = saved(grid, form, lossless=True)
    account.note(len(whole.base64))
    parts = await converter.cut(whole, 4, account)
    assert colours == [opened(part).getpixel((0, 0)) for part in parts]
    assert [1] * 4 == [len(opened(part).getcolors() or ()) for part in parts]
    assert {(size[0] // 2, size[1] // 2)} == {opened(part).size for part in parts}
    assert sum(len(part.base64) for part in parts) == account.held_bytes
    assert parts[:2] == await converter.cut(whole, 2, ByteAccount())


async def test_what_is_no_picture_is_cut_into_nothing(converter: ImageConverter) -> None:
    assert () == await converter.cut(encoded(b"\x89PNG\r\n\x1a\n" + bytes(99)), 4, ByteAccount())
