"""Events as people read them, and the addresses that they may be sent to."""

from pathlib import Path

import pytest

from gateway.domain.events import EventType
from gateway.events.addresses import AddressRules, origin_of
from gateway.events.channels import render_slack
from gateway.events.deliveries import Delivery
from gateway.events.endpoints import Channel, channel_of, unknown_pattern
from gateway.events.texts import _SENTENCES, subject


def event(kind: EventType, **data: object) -> Delivery:
    return Delivery(id="", event_id="evt_1", type=kind.value, at_ms=1, data=data, tenant="acme")


def test_every_event_has_a_sentence_and_a_place_in_the_docs() -> None:
    known = {kind.value for kind in EventType}
    assert known == set(_SENTENCES)
    page = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
    assert set() == {kind for kind in known if f"`{kind}`" not in page}


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        (EventType.QUOTA_EXHAUSTED, {"quota": "images_per_day"}, "acme has exhausted images_per_day"),
        (EventType.QUOTA_EXHAUSTED, {"quota": "q", "key_id": "K1"}, "API key K1 of acme has exhausted q"),
        (EventType.KEY_EXPIRING, {"key_id": "K1", "days": 3}, "API key K1 of acme expires in 3 days"),
        (
            EventType.KEY_QUARANTINED,
            {"upstream": "sim", "account": "a", "key": "a-1", "error_code": "key_invalid"},
            "Key sim/a/a-1 is quarantined: key_invalid",
        ),
        (EventType.NO_CAPACITY, {"upstream": "sim"}, "Upstream sim has no account that can serve requests"),
        (EventType.CAPACITY_RESTORED, {"upstream": "sim", "model": "m"}, "Upstream sim serves model m again"),
        (EventType.KEY_QUARANTINED, {"upstream": "sim", "account": "a"}, "Account sim/a is quarantined: ?"),
        (
            EventType.RELOAD_REFUSED,
            {"message": "a\nb\x1b[1m{who}"},
            "A changed configuration was refused: a?b?[1m{who}",
        ),
        (EventType.RELOAD_REFUSED, {"message": "x" * 900}, f"A changed configuration was refused: {'x' * 163}"),
    ],
)
def test_an_event_is_one_sentence(kind: EventType, data: dict[str, object], expected: str) -> None:
    assert expected == subject(event(kind, **data))


def test_the_text_of_an_event_is_no_markup() -> None:
    text = render_slack(event(EventType.KEY_EXPIRING, key_id="K", days=1, label="<!channel> & co"))
    assert b"label: &lt;!channel&gt; &amp; co" in text
    text = render_slack(event(EventType.KEY_EXPIRING, key_id="K", days=1, label="@all [log in](https://evil.example)"))
    assert not any(markup in text.decode() for markup in ("@all", "]("))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://hooks.example.com/a?b=c", ""),
        ("https://hooks.example.com:8443/", ""),
        ("http://chat.internal:8065/hooks/x", ""),
        ("mailto:jo@example.com", ""),
        ("http://hooks.example.com/", "plain http is refused"),
        ("http://chat.internal:8066/", "plain http is refused"),
        ("https://hooks.example.com:22/", "the port is not one of 443, 8443"),
        ("https://10.0.0.1/", "the address is not public"),
        ("https://[fd00::1]/", "the address is not public"),
        ("https://[::ffff:127.0.0.1]/", "the address is not public"),
        ("https://168.63.129.16/", "the address is not public"),
        ("https://a@hooks.example.com/", "expected an https:// URL"),
        ("https://hooks.example.com\\@10.0.0.1/", "expected an https:// URL"),
        ("https://hooks.example.com/#x", "expected an https:// URL"),
        ("https://hooks.example.com/\r\nx: y", "expected an https:// URL"),
        ("ftp://hooks.example.com/", "expected an https:// URL"),
        (f"https://hooks.example.com/{'x' * 2000}", "expected an https:// URL"),
        ("mailto:jo@example.com,mo@example.com", "expected one address"),
        ("mailto:jo@example.com?bcc=mo@example.com", "expected one address"),
        ("mailto:jo@example.com\nBcc: mo@example.com", "expected one address"),
    ],
)
def test_an_address_is_accepted_or_refused_with_its_reason(url: str, reason: str) -> None:
    rules = AddressRules(trusted_origins=frozenset({"http://chat.internal:8065"}))
    if not reason:
        rules.check(url)
        return
    with pytest.raises(ValueError, match=reason) as caught:
        rules.check(url)
    assert url not in str(caught.value)


def test_an_origin_has_no_default_port() -> None:
    urls = ("https://A.example.com:443/x", "http://a.example.com:80", "https://a.example.com:8443/", "no url")
    assert ["https://a.example.com", "http://a.example.com", "https://a.example.com:8443", ""] == list(
        map(origin_of, urls)
    )


def test_a_channel_follows_from_the_url_unless_it_is_given() -> None:
    assert [Channel.EMAIL, Channel.WEBHOOK, Channel.SLACK] == [
        channel_of("mailto:a@example.com", None),
        channel_of("https://a.example.com/", None),
        channel_of("https://a.example.com/", "slack"),
    ]
    with pytest.raises(ValueError, match="mailto:NAME@HOST"):
        channel_of("mailto:a@example.com", "slack")


def test_a_pattern_must_match_some_event() -> None:
    assert [None, "quotas.*", None] == [unknown_pattern([one]) for one in ("quota.*", "quotas.*", "batch.completed")]
