"""Google's wire: parts, refusals in successes, and tokens (reference/providers.md section 10)."""

from datetime import date

import pytest

from gateway.domain.errors import ErrorCode, GatewayError, Outcome
from gateway.domain.images import ImageJob, Size, TokenUsage
from gateway.providers.google import BLOCKED, FINISHED, MODELS, REASONS, STATUSES
from gateway.providers.protocol import KeyCheck
from tests.support.own_formats import EDIT, ENCODED, STRANGE, Wire

GEMINI = Wire("google", "gemini-3-pro-image")
HELP = {"@type": "type.googleapis.com/google.rpc.Help", "links": [{"url": "https://ai.google.dev/x.png"}]}
IMAGE = {"inlineData": {"mimeType": "image/png", "data": ENCODED}}
RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17.5s"}
DAY = {"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}


def candidate(*parts: object, reason: str = "STOP", **more: object) -> dict[str, object]:
    return {"candidates": [{"content": {"parts": parts, "role": "model"}, "finishReason": reason}]} | more


def failed(code: int, status: str, *details: object, message: str = "some text") -> dict[str, object]:
    return {"error": {"code": code, "message": message, "status": status, "details": details}}


def test_a_generation_is_a_prompt_and_its_settings() -> None:
    request = GEMINI.request(ImageJob("a fox", size=Size(1024, 1536)))
    assert ("POST", "/v1beta/models/gemini-3-pro-image:generateContent") == (request.method, request.path)
    assert "sk-secret" == dict(request.headers)["x-goog-api-key"]
    assert {
        "contents": [{"role": "user", "parts": [{"text": "a fox"}]}],
        "generationConfig": {"responseModalities": ["IMAGE"], "imageConfig": {"aspectRatio": "2:3"}},
    } == GEMINI.body(ImageJob("a fox", size=Size(1024, 1536)))
    assert {"responseModalities": ["IMAGE"]} == GEMINI.body(ImageJob("a fox"))["generationConfig"]


def test_a_model_cannot_name_another_path() -> None:
    path = Wire("google", "../files?key=x").request(ImageJob("a fox")).path
    assert "/v1beta/models/..%2Ffiles%3Fkey%3Dx:generateContent" == path


def test_an_edit_has_its_images_as_parts_which_are_not_copied() -> None:
    parts = [{"text": "in red"}, IMAGE]
    assert [{"role": "user", "parts": parts}] == GEMINI.body(EDIT)["contents"]
    [view] = [piece for piece in GEMINI.request(EDIT).body if isinstance(piece, memoryview)]
    assert view.obj is EDIT.inputs[0].link


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (candidate(IMAGE), ["iVBO"]),
        (candidate({"text": "Here it is"}, IMAGE | {"thoughtSignature": "c2ln"}), ["iVBO"]),
        (candidate(IMAGE | {"thought": True}, IMAGE), ["iVBO"]),
        (candidate(IMAGE, reason="MAX_TOKENS"), ["iVBO"]),
        (candidate(IMAGE | {"thought": True}), ErrorCode.INVALID_RESPONSE),
        (candidate({"text": "I cannot draw that"}), ErrorCode.EMPTY_RESPONSE),
        (candidate({"text": "x"}, usageMetadata={"candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 9}]}),
         ErrorCode.INVALID_RESPONSE),
        (candidate(reason="SOMETHING_NEW"), ErrorCode.INVALID_RESPONSE),
        (candidate(reason=""), ErrorCode.INVALID_RESPONSE),
        (candidate({"fileData": {"fileUri": "https://x.example/a.png", "data": ENCODED}}), ErrorCode.INVALID_RESPONSE),
        ({"promptFeedback": {"blockReason": "OTHER"}}, ErrorCode.CONTENT_INPUT),
        ({"promptFeedback": {"blockReason": "SOMETHING_NEW"}, "candidates": []}, ErrorCode.CONTENT_INPUT),
        ({"promptFeedback": {}}, ErrorCode.INVALID_RESPONSE),
        ({"candidates": []}, ErrorCode.INVALID_RESPONSE),
    ],
)  # fmt: skip
def test_a_success_is_read_by_its_images_and_their_reasons(body: object, expected: object) -> None:
    assert expected == GEMINI.outcome(body)


@pytest.mark.parametrize("reason", FINISHED)
def test_a_success_without_an_image_is_what_its_reason_says(reason: str) -> None:
    for parts in ((), ({"text": "x"},)):
        assert FINISHED[reason] == GEMINI.outcome(candidate(*parts, reason=reason))
    assert (reason in BLOCKED) == (FINISHED[reason] is ErrorCode.CONTENT_OUTPUT)


@pytest.mark.parametrize("status", STATUSES)
def test_a_status_counts_only_in_the_providers_own_form(status: str) -> None:
    assert STATUSES[status] == GEMINI.outcome(failed(418, status, HELP), 418)
    assert GEMINI.outcome(failed(400, status), 418) is ErrorCode.BARE_REFUSAL
    assert GEMINI.outcome(failed(400, "SOMETHING_NEW"), 400) is ErrorCode.UPSTREAM_REJECTED


@pytest.mark.parametrize("reason", REASONS)
def test_a_reason_is_more_precise_than_the_status(reason: str) -> None:
    assert REASONS[reason] == GEMINI.outcome(failed(400, "INVALID_ARGUMENT", HELP, {"reason": reason}), 400)


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ([HELP, RETRY], (ErrorCode.ACCOUNT_RATE_LIMITED, 17.5, 17.5)),
        ([HELP], (ErrorCode.ACCOUNT_RATE_LIMITED, None, None)),
        ([DAY, RETRY], (ErrorCode.QUOTA_EXHAUSTED_DAILY, None, None)),
        ([{"retryDelay": "soon"}], (ErrorCode.ACCOUNT_RATE_LIMITED, None, None)),
    ],
)
def test_a_used_up_quota_says_which_and_until_when(details: list[object], expected: tuple[object, ...]) -> None:
    with pytest.raises(GatewayError) as caught:
        GEMINI.read(failed(429, "RESOURCE_EXHAUSTED", *details), 429)
    error = caught.value
    assert expected == (error.error_code, error.retry_after_s, error.cooldown_s)


@pytest.mark.parametrize(("body", "status"), STRANGE)
def test_a_strange_reply_has_an_unknown_outcome(body: object, status: int) -> None:
    found = GEMINI.outcome(body, status)
    assert isinstance(found, ErrorCode)
    assert found.spec.outcome is Outcome.UNKNOWN


def test_an_image_in_an_error_may_have_been_billed() -> None:
    body = failed(400, "INVALID_ARGUMENT") | candidate(IMAGE)
    assert GEMINI.outcome(body, 400) is ErrorCode.INVALID_RESPONSE


def test_tokens_are_read_by_kind_with_those_of_thoughts() -> None:
    details = [{"modality": "TEXT", "tokenCount": 8}, {"modality": "IMAGE", "tokenCount": 258}]
    counts = {"promptTokenCount": 266, "candidatesTokenCount": 1120, "promptTokensDetails": details}
    reply = GEMINI.read(candidate(IMAGE, usageMetadata=counts | {"thoughtsTokenCount": 30}, responseId="r-1"))
    assert (TokenUsage(266, 1150, 8, 258), "r-1", Size(48, 32)) == (reply.usage, reply.id, reply.made)
    for broken in ({"promptTokenCount": 8}, {"promptTokenCount": -1, "candidatesTokenCount": 1}, {}):
        assert GEMINI.read(candidate(IMAGE, usageMetadata=broken)).usage is None


def test_the_list_of_models_is_the_key_check() -> None:
    assert KeyCheck() == GEMINI.check({"models": []})
    assert KeyCheck(ErrorCode.INVALID_RESPONSE) == GEMINI.check({})
    refused = failed(400, "INVALID_ARGUMENT", {"reason": "API_KEY_INVALID"})
    assert KeyCheck(ErrorCode.KEY_INVALID) == GEMINI.check(refused, 400)
    assert KeyCheck(ErrorCode.INVALID_RESPONSE) == GEMINI.check({"models": []}, 500)


def test_models_have_the_day_from_which_they_are_refused() -> None:
    dates = {name: facts.retires_on for name, facts in MODELS.items() if facts.retires_on}
    assert {"gemini-3.1-flash-image": date(2026, 10, 29), "gemini-2.5-flash-image": date(2027, 3, 15)} == dates
