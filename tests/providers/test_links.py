"""Which result links may be followed, and how they are handed on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers import PROVIDERS
from gateway.providers.links import LinkPolicy, Trust, host_of, secured

POLICY = LinkPolicy(
    ["file.302ai.cn", "img-*.Example.com", "*.bcebos.com", "http://127.0.0.1:9000/", "https://cdn.in:8443"]
)
SIGNED = "hailuo-image-algeng-data-us.oss-us-east-1.aliyuncs.com/a%2Fb_aigc.jpeg?Expires=1&Signature=x%2By%3D"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://file.302ai.cn/gpt/imgs/x.jpg", Trust.PUBLIC),
        ("http://file.302ai.cn/x.jpg", Trust.PUBLIC),
        ("https://FILE.302AI.CN/x.jpg", Trust.PUBLIC),
        ("https://file.302ai.cn./x.jpg", Trust.PUBLIC),
        ("https://file.302ai.cn:443/x.jpg", Trust.PUBLIC),
        ("https://img-1.example.com/x.jpg", Trust.PUBLIC),
        ("https://gz.bcebos.com/x.jpg", Trust.PUBLIC),
        ("http://127.0.0.1:9000/x.jpg", Trust.NAMED),
        ("https://cdn.in:8443/x.jpg", Trust.NAMED),
        # another port, scheme or host
        ("https://file.302ai.cn:8443/x.jpg", Trust.NONE),
        ("http://127.0.0.1:9001/x.jpg", Trust.NONE),
        ("http://127.0.0.1/x.jpg", Trust.NONE),
        ("https://127.0.0.1:9000/x.jpg", Trust.NONE),
        ("http://cdn.in:8443/x.jpg", Trust.NONE),
        ("https://cdn.in/x.jpg", Trust.NONE),
        ("https://302ai.cn/x.jpg", Trust.NONE),
        ("https://xfile.302ai.cn/x.jpg", Trust.NONE),
        ("https://file.302ai.cn.evil.org/x.jpg", Trust.NONE),
        ("https://img-1.example.com.evil.org/x.jpg", Trust.NONE),
        ("https://evilbcebos.com/x.jpg", Trust.NONE),
        # a host that only looks allowed
        ("https://file.302ai.cn@evil.org/x.jpg", Trust.NONE),
        ("https://evil.org@file.302ai.cn/x.jpg", Trust.NONE),
        ("http://127.0.0.1:9000@evil.org/x.jpg", Trust.NONE),
        ("https://evil.org#@file.302ai.cn/", Trust.NONE),
        ("https://evil.org?.file.302ai.cn", Trust.NONE),
        ("https://evil.org\\@file.302ai.cn/", Trust.NONE),
        ("https://file.302ai.cn\\.evil.org/", Trust.NONE),
        ("https://img-/evil.org.example.com", Trust.NONE),
        ("https://img-ä.example.com/x.jpg", Trust.NONE),
        ("https://169.254.169.254/latest/meta-data", Trust.NONE),
        ("http://[::1]:9000/x.jpg", Trust.NONE),
        # no link at all
        ("https://file.302ai.cn:99999/", Trust.NONE),
        ("https://file.302ai.cn:x/", Trust.NONE),
        ("https://[::1/x.jpg", Trust.NONE),
        ("https://", Trust.NONE),
        ("file:///etc/passwd", Trust.NONE),
        ("/x.jpg", Trust.NONE),
        ("", Trust.NONE),
    ],
)
def test_link_is_trusted_by_its_host(url: str, expected: Trust) -> None:
    assert expected is POLICY.trust(url)


@pytest.mark.parametrize(
    ("dialect", "url"),
    [
        ("minimax", f"http://{SIGNED}"),
        ("minimax", "https://hailuo-image-algeng-data.oss-cn-wulanchabu.aliyuncs.com/x.jpeg"),
        ("minimax", "https://gz.bj.bcebos.com/x.jpeg"),
        ("minimax", "https://cdn.hailuoai.com/x.jpeg"),
        ("302ai", "https://file.302ai.cn/gpt/imgs/0f.jpg"),
        ("302ai", "https://file.302.ai/gpt/imgs/20250312/0f.jpg"),
    ],
)
def test_hosts_seen_in_results_are_known(dialect: str, url: str) -> None:
    """reference/minimax.md 1.4 and 5.1."""
    assert Trust.PUBLIC is LinkPolicy(PROVIDERS[dialect].result_hosts).trust(url)


@pytest.mark.parametrize("dialect", sorted(PROVIDERS))
def test_no_dialect_trusts_an_origin_or_every_host(dialect: str) -> None:
    policy = LinkPolicy(PROVIDERS[dialect].result_hosts)
    for url in ("http://127.0.0.1/x", "https://example.org/x.jpg", "https://other.oss-us-east-1.aliyuncs.com/x"):
        assert Trust.NONE is policy.trust(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (f"http://{SIGNED}", f"https://{SIGNED}"),
        (f"HTTP://{SIGNED}", f"https://{SIGNED}"),
        (f"https://{SIGNED}", f"https://{SIGNED}"),
        ("http://unlisted.org/x.jpg?a=http://b", "https://unlisted.org/x.jpg?a=http://b"),
        ("http://127.0.0.1:9000/x.jpg", "http://127.0.0.1:9000/x.jpg"),
    ],
)
def test_links_are_handed_on_as_https_and_otherwise_untouched(url: str, expected: str) -> None:
    assert expected == POLICY.hand_on(url)


def test_log_names_the_host_only() -> None:
    assert host_of(f"https://{SIGNED}") == "hailuo-image-algeng-data-us.oss-us-east-1.aliyuncs.com"
    assert host_of("no link") == "?"


@given(st.text())
def test_any_text_is_judged(text: str) -> None:
    for url in (text, f"https://{text}", f"http://127.0.0.1:9000{text}", f"https://file.302ai.cn{text}"):
        POLICY.trust(url)
        host_of(url)
        assert secured(secured(url)) == secured(url)
