"""The pipeline as a Python object, used as its documentation shows it."""

import pytest

from pipeline import Answer, Pipeline, PipelineError
from tests.pipeline.conftest import CLIPS
from workers.session import Progress


@pytest.fixture
def pipeline(environment, opened):
    with Pipeline.open() as p:
        yield p


def test_the_documented_use(pipeline, video):
    last = pipeline.ingest(str(video), stream="cs101")
    assert (last.state, last.clips) == ("complete", CLIPS)
    answer = pipeline.ask("what is on the slide", streams=["cs101"], start_s=4, end_s=8)
    assert answer.text
    assert [span.index for span in answer.citations] == [2, 3]
    assert answer.coverage == 1.0
    clips = list(pipeline.clips("cs101", start_s=0, end_s=6))
    assert [clip.index for clip in clips] == [0, 1, 2]
    assert clips[0].tokens.tokens.shape[1] == 64


def test_ingesting_again_changes_nothing(pipeline, video):
    first = pipeline.ingest(str(video), stream="cs101")
    again = pipeline.ingest(str(video), stream="cs101")
    assert (again.state, again.clips, again.resumed_s) == ("complete", 0, first.position_s)


def test_progress_comes_clip_by_clip(pipeline, video):
    seen = list(pipeline.iter_ingest(str(video), stream="cs101", end_s=8.0))
    assert all(isinstance(value, Progress) for value in seen)
    assert [value.clips for value in seen] == [0, 1, 2, 3, 4, 4]


def test_an_ingest_that_is_left_goes_on_where_it_was(pipeline, video):
    for value in pipeline.iter_ingest(str(video), stream="cs101"):
        if value.clips == 3:
            break
    [known] = pipeline.streams()
    assert known.status == "paused"
    rest = pipeline.ingest(str(video), stream="cs101")
    assert (rest.resumed_s, rest.clips) == (6.0, CLIPS - 3)


def test_a_stream_that_is_removed_meanwhile_hides_no_other(pipeline, video, monkeypatch):
    pipeline.ingest(str(video), stream="cs101", end_s=4.0)
    listed = pipeline.store.list_streams
    monkeypatch.setattr(pipeline.store, "list_streams", lambda: [*listed(), "gone"])
    assert [known.stream_id for known in pipeline.streams()] == ["cs101"]


def test_an_answer_is_streamed(pipeline, video):
    pipeline.ingest(str(video), stream="cs101")
    *pieces, answer = pipeline.ask_stream("what is seen", streams=["cs101"], last="4s")
    assert isinstance(answer, Answer)
    assert answer.text == "".join(piece.text for piece in pieces).strip()


def test_a_stream_may_be_named_by_itself_and_times_as_text(pipeline, video):
    pipeline.ingest(str(video), stream="cs101")
    answer = pipeline.ask("what is seen", streams="cs101", start="0:04", end="8s")
    assert [span.index for span in answer.citations] == [2, 3]
    with pytest.raises(PipelineError, match="both start and start_s"):
        pipeline.ask("what is seen", streams="cs101", start=1, start_s=1)


def test_what_is_wrong_with_a_question_is_said_before_a_model_is_loaded(environment, opened):
    with Pipeline.open(overrides={"model": {"id": "/nowhere/model"}}) as pipeline:
        with pytest.raises(PipelineError, match="no stream 'nobody'"):
            pipeline.ask("what", streams="nobody")
        assert pipeline._model is None


def test_settings_of_a_question_may_be_given_with_it(pipeline, video):
    pipeline.ingest(str(video), stream="cs101")
    answer = pipeline.ask("what is seen", streams=["cs101"], max_clips=2, marks="frame")
    assert len(answer.citations) == 2


def test_an_option_that_there_is_not_is_refused(pipeline, video):
    with pytest.raises(TypeError, match="lst"):
        pipeline.ask("what is seen", streams="cs101", lst="4s")


def test_clips_of_an_unknown_stream_are_an_error(pipeline):
    with pytest.raises(PipelineError, match="nobody"):
        pipeline.clips("nobody")


def test_a_file_of_settings_opens_it(environment, opened, tmp_path, video):
    path = tmp_path / "aot.yaml"
    path.write_text("ingest: {reducer: none}\n")
    with Pipeline.open(path) as pipeline:
        last = pipeline.ingest(str(video), stream="all", end_s=4.0)
    assert last.retention == 1.0
