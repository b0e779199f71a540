"""The unchanged OpenAI client: chat, streaming, several windows, errors as its own types."""

from datetime import datetime

import openai
import pytest


@pytest.fixture
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as one:
        yield one


def video(url: str) -> dict:
    return {"type": "video_url", "video_url": {"url": url}}


def ask(client, *urls: str, text: str = "what is seen", **options):
    content = [*map(video, urls), {"type": "text", "text": text}]
    messages = [{"role": "user", "content": content}]
    return client.chat.completions.create(model="aot", messages=messages, **options)


def test_a_whole_answer_with_citations_and_usage(client, served):
    done = ask(client, "stream://walk?start=4&end=8")
    [choice] = done.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    urls = [note.url_citation.url for note in choice.message.annotations]
    assert urls == ["stream://walk?start=4&end=6", "stream://walk?start=6&end=8"]
    titles = [note.url_citation.title for note in choice.message.annotations]
    assert titles[0].startswith("walk, 2026-01-01T")
    assert titles[0].endswith(", clip 2")
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens
    assert 0 < done.usage.completion_tokens <= 8
    assert done.usage.visual_tokens > 0
    assert done.model == served.service.model_name


def test_a_streamed_answer_is_the_whole_one(client):
    whole = ask(client, "stream://walk?last=6s")
    chunks = list(
        ask(client, "stream://walk?last=6s", stream=True, stream_options={"include_usage": True})
    )
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(text for text in texts if text).strip() == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason


def test_several_windows_and_their_other_names(client):
    done = ask(client, "aot://walk?from=0&to=2", "stream://other?last=2s")
    urls = [note.url_citation.url for note in done.choices[0].message.annotations]
    assert urls == ["stream://walk?start=0&end=2", "stream://other?start=18&end=20"]
    walk, other = (note.url_citation for note in done.choices[0].message.annotations)
    assert datetime.fromisoformat(walk.wall_start).timestamp() == 1_767_268_800.0
    assert datetime.fromisoformat(walk.wall_end).timestamp() == 1_767_268_802.0
    assert (other.title, other.wall_start, other.wall_end) == ("other, clip 9", None, None)


def test_wall_times_keep_the_sign_of_their_zone(client):
    done = ask(
        client, "stream://walk?start=2026-01-01T14:00:04+02:00&end=2026-01-01T14:00:06+02:00"
    )
    assert [note.url_citation.url for note in done.choices[0].message.annotations] == [
        "stream://walk?start=4&end=6"
    ]


def test_a_follow_up_reads_the_turns_before_it(client):
    first = [video("stream://walk?last=2s"), {"type": "text", "text": "what is seen"}]
    messages = [
        {"role": "user", "content": first},
        {"role": "assistant", "content": "a circle"},
        {"role": "user", "content": "which colour"},
    ]
    alone = ask(client, "stream://walk?last=2s", text="which colour")
    done = client.chat.completions.create(model="aot", messages=messages)
    assert done.usage.visual_tokens == alone.usage.visual_tokens
    assert done.usage.prompt_tokens > alone.usage.prompt_tokens


def test_options_of_ours_and_the_length_of_the_answer(client):
    short = ask(client, "stream://walk", max_completion_tokens=2)
    assert (short.usage.completion_tokens, short.choices[0].finish_reason) == (2, "length")
    few = ask(client, "stream://walk", extra_body={"aot": {"max_clips": 2}})
    assert len(few.choices[0].message.annotations) == 2


@pytest.mark.parametrize(
    ("url", "options", "error", "code"),
    [
        ("stream://nobody", {}, openai.NotFoundError, "UnknownStream"),
        ("stream://walk?start=500&end=600", {}, openai.UnprocessableEntityError, "NoFootage"),
        ("https://example.org/a.mp4", {}, openai.UnprocessableEntityError, "InvalidQuery"),
        ("stream://walk?key=1", {}, openai.UnprocessableEntityError, "InvalidQuery"),
        ("stream://walk", {"model": "gpt"}, openai.NotFoundError, "UnknownModel"),
        ("stream://walk", {"n": 2}, openai.UnprocessableEntityError, "InvalidRequest"),
        ("stream://walk?last=3650d", {}, openai.APIStatusError, "QueryTooLarge"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_the_clients_own_types(client, url, options, error, code, stream):
    messages = [{"role": "user", "content": [video(url), {"type": "text", "text": "what"}]}]
    asked = {"model": "aot", "messages": messages, "stream": stream, **options}
    with pytest.raises(error) as caught:
        client.chat.completions.create(**asked)
    assert caught.value.code == code


def test_a_wrong_key_is_an_authentication_error(keyed):
    with (
        openai.OpenAI(base_url=f"{keyed.url}/v1", api_key="aot_00000000_x", max_retries=0) as one,
        pytest.raises(openai.AuthenticationError),
    ):
        one.models.list()
    with openai.OpenAI(base_url=f"{keyed.url}/v1", api_key=keyed.keys["read"]) as one:
        assert [model.id for model in one.models.list()] == [keyed.service.model_name]


def test_models_are_listed_and_described_without_their_place(client, served):
    [model] = client.models.list().data
    assert model.id == served.service.model_name == "tiny"
    assert client.models.retrieve(model.id) == model


def test_a_time_in_the_latest_message_that_says_one_is_the_window(client):
    def at(role, text):
        return {"role": role, "content": [*parts, {"type": "text", "text": text}]}

    parts = [video("stream://other")]
    messages = [at("user", "what was in the first 2 seconds")]
    messages.append({"role": "assistant", "content": "a car in the last 6 seconds"})
    messages.append(at("user", "and in the last 4 seconds"))
    for more, phrase, start_s in (
        ([], "in the last 4 seconds", 16.0),
        ([at("user", "what colour")], "in the last 4 seconds", 16.0),
        ([at("user", "and the first 2 seconds")], "the first 2 seconds", 0.0),
    ):
        done = client.chat.completions.create(model="aot", messages=[*messages, *more])
        [stream] = done.aot["streams"]
        assert (stream["phrase"], stream["start_s"]) == (phrase, start_s)


def test_a_budget_may_be_met_by_merging(client):
    options = {"max_visual_tokens": 40, "fit": "recompress"}
    done = ask(client, "stream://walk", extra_body={"aot": options})
    [level] = done.aot["streams"][0]["levels"]
    assert (level["detail"], level["clips"]) == ("merged", done.aot["streams"][0]["clips_found"])
    assert done.usage.visual_tokens <= 40 < level["tokens_before"]
