"""Which result links may be followed, and how they are handed on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers import PROVIDERS
from gateway.providers.links import LinkPolicy, LinkTrust, host_of, secured

POLICY = LinkPolicy(
    ["file.302ai.cn", "img-*.Example.com", "*.bcebos.com", "http://127.0.0.1:9000/", "https://cdn.in:8443"]
)
SIGNED = "hailuo-image-algeng-data-us.oss-us-east-1.aliyuncs.com/a%2Fb_aigc.jpeg?Expires=1&Signature=x%2By%3D"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://file.302ai.cn/gpt/imgs/x.jpg", LinkTrust.PUBLIC),
        ("http://file.302ai.cn/x.jpg", LinkTrust.PUBLIC),
        ("https://FILE.302AI.CN/x.jpg", LinkTrust.PUBLIC),
        ("https://file.302ai.cn./x.jpg", LinkTrust.PUBLIC),
        ("https://file.302ai.cn:443/x.jpg", LinkTrust.PUBLIC),
        ("https://img-1.example.com/x.jpg", LinkTrust.PUBLIC),
        ("https://gz.bcebos.com/x.jpg", LinkTrust.PUBLIC),
        ("http://127.0.0.1:9000/x.jpg", LinkTrust.NAMED),
        ("https://cdn.in:8443/x.jpg", LinkTrust.NAMED),
        # another port, scheme or host
        ("https://file.302ai.cn:8443/x.jpg", LinkTrust.NONE),
        ("http://127.0.0.1:9001/x.jpg", LinkTrust.NONE),
        ("http://127.0.0.1/x.jpg", LinkTrust.NONE),
        ("https://127.0.0.1:9000/x.jpg", LinkTrust.NONE),
        ("http://cdn.in:8443/x.jpg", LinkTrust.NONE),
        ("https://cdn.in/x.jpg", LinkTrust.NONE),
        ("https://302ai.cn/x.jpg", LinkTrust.NONE),
        ("https://xfile.302ai.cn/x.jpg", LinkTrust.NONE),
        ("https://file.302ai.cn.evil.org/x.jpg", LinkTrust.NONE),
        ("https://img-1.example.com.evil.org/x.jpg", LinkTrust.NONE),
        ("https://evilbcebos.com/x.jpg", LinkTrust.NONE),
        # a host that only looks allowed
        ("https://file.302ai.cn@evil.org/x.jpg", LinkTrust.NONE),
        ("https://evil.org@file.302ai.cn/x.jpg", LinkTrust.NONE),
        ("http://127.0.0.1:9000@evil.org/x.jpg", LinkTrust.NONE),
        ("https://evil.org#@file.302ai.cn/", LinkTrust.NONE),
        ("https://evil.org?.file.302ai.cn", LinkTrust.NONE),
        ("https://evil.org\\@file.302ai.cn/", LinkTrust.NONE),
        ("https://file.302ai.cn\\.evil.org/", LinkTrust.NONE),
        ("https://img-/evil.org.example.com", LinkTrust.NONE),
        ("https://img-ä.example.com/x.jpg", LinkTrust.NONE),
        ("https://169.254.169.254/latest/meta-data", LinkTrust.NONE),
        ("http://[::1]:9000/x.jpg", LinkTrust.NONE),
        # no link at all
        ("https://file.302ai.cn:99999/", LinkTrust.NONE),
        ("https://file.302ai.cn:x/", LinkTrust.NONE),
        ("https://[::1/x.jpg", LinkTrust.NONE),
        ("https://", LinkTrust.NONE),
        ("file:///etc/passwd", LinkTrust.NONE),
        ("/x.jpg", LinkTrust.NONE),
        ("", LinkTrust.NONE),
    ],
)
def test_link_is_trusted_by_its_host(url: str, expected: LinkTrust) -> None:
    assert expected is POLICY.trust(url)


@pytest.mark.parametrize(
    ("provider", "url"),
    [
        ("minimax", f"http://{SIGNED}"),
        ("minimax", "https://hailuo-image-algeng-data.oss-cn-wulanchabu.aliyuncs.com/x.jpeg"),
        ("minimax", "https://gz.bj.bcebos.com/x.jpeg"),
        ("minimax", "https://cdn.hailuoai.com/x.jpeg"),
        ("302ai", "https://file.302ai.cn/gpt/imgs/0f.jpg"),
        ("302ai", "https://file.302.ai/gpt/imgs/20250312/0f.jpg"),
    ],
)
def test_hosts_seen_in_results_are_known(provider: str, url: str) -> None:
    """reference/minimax.md 1.4 and 5.1."""
    assert LinkTrust.PUBLIC is LinkPolicy(PROVIDERS[provider].result_hosts).trust(url)


@pytest.mark.parametrize("provider", sorted(PROVIDERS))
def test_no_dialect_trusts_an_origin_or_every_host(provider: str) -> None:
    policy = LinkPolicy(PROVIDERS[provider].result_hosts)
    for url in ("http://127.0.0.1/x", "https://example.org/x.jpg", "https://other.oss-us-east-1.aliyuncs.com/x"):
        assert LinkTrust.NONE is policy.trust(url)


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
    assert expected == POLICY.client_url(url)


def test_log_names_the_host_only() -> None:
    assert host_of(f"https://{SIGNED}") == "hailuo-image-algeng-data-us.oss-us-east-1.aliyuncs.com"
    assert host_of("no link") == "?"


@given(st.text())
def test_any_text_is_judged(text: str) -> None:
    for url in (text, f"https://{text}", f"http://127.0.0.1:9000{text}", f"https://file.302ai.cn{text}"):
        POLICY.trust(url)
        host_of(url)
        assert secured(secured(url)) == secured(url)
