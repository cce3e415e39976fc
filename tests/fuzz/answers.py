"""What an upstream may answer: real replies of both providers, changed in their fields and in their bytes."""

from collections.abc import Mapping
from typing import Any, Final

from hypothesis import strategies as st

from gateway.domain.accounts import make_secret
from gateway.providers.ai302 import CODE_WORDS, ERR_CODES
from gateway.providers.minimax import CODES, NEWER_TYPES
from tests.fuzz.values import JsonValue, anything, mangled, render, spoiled

KEY: Final = "canary-upstream-key-7c1e55d0a4b2"
SECRET: Final = make_secret(KEY)
JPEG: Final = "/9j/4AAQSkZJRg=="
LINK: Final = "https://cdn.hailuoai.com/1.jpeg?Signature=x%3D"

_MADE: Final[Mapping[str, JsonValue]] = {
    "id": "03ff3cd0820949eb8a410056b5f21d38",
    "data": {"image_base64": [JPEG, JPEG]},
    "metadata": {"failed_count": "0", "success_count": "2"},
    "base_resp": {"status_code": 0, "status_msg": "success"},
}
_NAMES: Final = ("id", "data", "metadata", "base_resp", "error", "code", "message", "type", "model_remains")
_INNER_NAMES: Final = (
    *("image_base64", "image_urls", "failed_count", "success_count", "status_code", "status_msg"),
    *("err_code", "message", "type", "http_code", "error"),
)

pictures = st.sampled_from(
    (
        JPEG,
        JPEG * 2,
        "data:image/jpeg;base64," + JPEG,
        JPEG[:-1],
        JPEG + "====",
        "\n".join(JPEG),
        "iVBORw0KGgo=",
        "",
        " ",
    )
)
links = st.one_of(
    st.sampled_from(
        (LINK, LINK.upper(), "HTTP://x", "https://", "https:// x", "javascript:alert(1)", "file:///etc/passwd")
    ),
    st.sampled_from((f"https://x.example/{KEY}", f"https://{KEY}@x.example/1", f"https://x.example/?k=Bearer%20{KEY}")),
    st.text(max_size=12).map(lambda text: "https://" + text),
    st.just("https://x/" + "y" * 9000),
)
words = st.one_of(
    st.sampled_from(
        ("", "success", KEY, f"bad key Bearer {KEY} for it", "x" * 990 + KEY, "limit (2056)", "prompt length")
    ),
    st.text(max_size=30),
)
codes = st.one_of(
    st.sampled_from((*CODES, *ERR_CODES, 0, 1, -1, 2**63, "0", "1002", " 1026 ", "1e3", True, False, 1002.0, 0.0)),
    st.integers(),
)


def _datas() -> st.SearchStrategy[JsonValue]:
    lists = {
        "image_base64": st.lists(st.one_of(pictures, anything), max_size=3),
        "image_urls": st.lists(st.one_of(links, anything), max_size=3),
        "error": st.fixed_dictionaries({"err_code": codes, "message": words}),
    }
    return st.one_of(st.fixed_dictionaries({}, optional=lists), anything)


def _errors() -> st.SearchStrategy[JsonValue]:
    fields = {
        "type": st.one_of(st.sampled_from(tuple(NEWER_TYPES)), words),
        "message": words,
        "http_code": st.one_of(st.sampled_from((400, 401, 429, 500, 504, 524, "529", 200, 99)), codes),
        "err_code": codes,
    }
    return st.one_of(st.fixed_dictionaries({}, optional=fields), words, anything)


def documents() -> st.SearchStrategy[Mapping[str, Any]]:
    """Objects with the fields of a reply, each of which may be of any kind."""
    counters = st.fixed_dictionaries({}, optional={"failed_count": codes, "success_count": codes})
    stated = st.fixed_dictionaries({}, optional={"status_code": codes, "status_msg": words})
    return st.fixed_dictionaries(
        {},
        optional={
            "id": words,
            "data": _datas(),
            "metadata": st.one_of(counters, anything),
            "base_resp": st.one_of(stated, st.just({"status_code": 0}), anything),
            "error": _errors(),
            "code": st.one_of(st.sampled_from(tuple(CODE_WORDS)), words),
            "message": words,
        },
    )


@st.composite
def reply_bodies(draw: st.DrawFn) -> bytes:
    kind = draw(
        st.sampled_from(("made", "links", "fields", "fields", "inner", "document", "document", "bytes", "anything"))
    )
    if kind == "anything":
        return render(draw(anything))
    if kind == "links":
        return render(
            {**_MADE, "id": draw(words), "data": {"image_urls": draw(st.lists(links, min_size=1, max_size=3))}}
        )
    if kind == "document":
        return render(draw(documents()))
    if kind == "inner":
        name = draw(st.sampled_from(("data", "metadata", "base_resp")))
        inner = _MADE[name]
        assert isinstance(inner, Mapping)
        return render({**_MADE, name: draw(spoiled(inner, _INNER_NAMES))})
    body = render(draw(spoiled(_MADE, _NAMES)) if kind == "fields" else _MADE)
    return draw(mangled(body)) if kind == "bytes" else body


statuses = st.one_of(
    st.sampled_from((200, 200, 200, 201, 204, 301, 302, 400, 401, 402, 403, 404, 405, 408, 413, 418, 422, 429)),
    st.sampled_from((500, 502, 503, 504, 520, 524, 599)),
    st.integers(200, 599),
)
