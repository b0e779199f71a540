"""Export and import: the same records elsewhere, and questions about them there."""

import dataclasses

import pytest
import torch

from pipeline.api import transfer
from pipeline.api.transfer import import_stream
from pipeline.ask.run import Question, ask
from pipeline.ingest.lease import holder_text
from pipeline.store import StoreConfig, open_store
from pipeline.store.arrow import export_clips, exported_facts, iter_exported
from pipeline.store.keys import record_id
from pipeline.values.errors import CorruptValue, InvalidQuery, LeaseHeld, StoreUnavailable
from pipeline.values.types import Gap
from tests.pipeline.conftest import CLIPS, FPS
from tests.pipeline.support import digests, rows, store_video
from workers.models import open_language_model
from workers.types import VideoSource


@pytest.fixture
def elsewhere(server_folder):
    with open_store(StoreConfig(f"embedded://{server_folder}", namespace="elsewhere")) as store:
        yield store
        for stream_id in store.list_streams():
            store.delete_stream(stream_id)


@pytest.fixture(scope="module")
def opened(model_folder, video, server_folder):
    """A store with the video as stream `walk`."""
    config = StoreConfig(f"embedded://{server_folder}", namespace="transfer")
    store_video(config, model_folder, VideoSource(str(video), "walk", FPS))
    with open_store(config) as store:
        yield store


@pytest.fixture
def exported(opened, tmp_path):
    return write(opened, tmp_path / "walk.arrow", info=opened.get_info("walk"))


def write(store, path, **fields):
    spans = store.list_spans("walk")
    records = ((record_id(s.stream_id, s.epoch, s.index), store.get_record(s)) for s in spans)
    assert export_clips(records, path, **fields) == CLIPS
    return path


def test_what_comes_back_is_what_went_out(opened, exported, elsewhere):
    assert import_stream(elsewhere, "walk", exported) == CLIPS
    assert digests(elsewhere, "walk") == digests(opened, "walk")
    assert rows(elsewhere, "walk") == rows(opened, "walk")
    assert elsewhere.get_position("walk") == opened.get_position("walk")


def test_what_is_known_of_the_stream_comes_along(opened, exported, elsewhere):
    import_stream(elsewhere, "walk", exported)
    assert elsewhere.get_info("walk") == opened.get_info("walk")


def test_an_imported_stream_answers_as_the_first_one_does(
    opened, exported, elsewhere, model_folder
):
    import_stream(elsewhere, "walk", exported)
    model = open_language_model(str(model_folder))
    question = Question("what is seen", ("walk",), start=4, end=10, max_new_tokens=8)
    assert ask(elsewhere, model, question).text == ask(opened, model, question).text


def test_importing_twice_changes_nothing(exported, elsewhere):
    import_stream(elsewhere, "walk", exported)
    before = digests(elsewhere, "walk")
    assert import_stream(elsewhere, "walk", exported) == CLIPS
    assert digests(elsewhere, "walk") == before
    assert elsewhere.get_lease("walk") is None


def test_a_deleted_stream_is_restored(opened, exported, elsewhere):
    import_stream(elsewhere, "walk", exported)
    elsewhere.delete_stream("walk")
    import_stream(elsewhere, "walk", exported)
    assert digests(elsewhere, "walk") == digests(opened, "walk")


def test_a_stream_exported_while_it_ran_is_not_running_elsewhere(opened, elsewhere, exported):
    running = dataclasses.replace(opened.get_info("walk"), status="running")
    path = write(opened, exported.with_name("running.arrow"), info=running)
    import_stream(elsewhere, "walk", path)
    assert elsewhere.get_info("walk").status == "paused"


def test_an_export_without_stream_facts_is_still_taken(opened, elsewhere, exported):
    path = write(opened, exported.with_name("bare.arrow"))
    assert exported_facts(path) is None
    import_stream(elsewhere, "walk", path)
    assert elsewhere.get_info("walk").model_id == "imported"
    assert digests(elsewhere, "walk") == digests(opened, "walk")


def test_facts_of_another_stream_are_not_believed(opened, elsewhere, exported):
    wrong = dataclasses.replace(opened.get_info("walk"), fingerprint="f" * 32)
    path = write(opened, exported.with_name("wrong.arrow"), info=wrong)
    import_stream(elsewhere, "walk", path)
    assert elsewhere.get_info("walk").model_id == "imported"


def test_another_name_is_refused_and_leaves_nothing(exported, elsewhere):
    with pytest.raises(InvalidQuery, match="holds stream walk, got door"):
        import_stream(elsewhere, "door", exported)
    assert elsewhere.list_streams() == []
    assert elsewhere.get_lease("door") is None


def test_a_stream_that_is_written_is_refused(exported, elsewhere):
    lease = elsewhere.acquire_lease("walk", holder_text("somebody"))
    with pytest.raises(LeaseHeld, match="somebody@"):
        import_stream(elsewhere, "walk", exported)
    elsewhere.release_lease(lease)


def test_a_stream_whose_session_was_killed_is_taken(opened, exported, elsewhere):
    """It says `running` for ever, and nobody writes."""
    elsewhere.put_info(dataclasses.replace(opened.get_info("walk"), status="running"))
    assert import_stream(elsewhere, "walk", exported) == CLIPS


def test_gaps_and_status_come_along(opened, exported, elsewhere):
    gaps = [Gap("walk", 0, 20.0, 31.5, "disconnected", 1.7e9), Gap("walk", 0, 40.0, 48.0, "failed")]
    info = dataclasses.replace(opened.get_info("walk"), status="failed", error="Truncated: early")
    path = write(opened, exported.with_name("gaps.arrow"), info=info, gaps=gaps)
    import_stream(elsewhere, "walk", path)
    assert elsewhere.list_gaps("walk") == gaps
    assert elsewhere.get_info("walk") == info
    assert import_stream(elsewhere, "walk", path) == CLIPS
    assert elsewhere.list_gaps("walk") == gaps


def test_an_import_that_breaks_off_is_not_complete_and_can_be_finished(
    opened, exported, elsewhere, monkeypatch
):
    def break_off(path):
        for number, record in enumerate(iter_exported(path)):
            if number == 2:
                raise StoreUnavailable("away")
            yield record

    with monkeypatch.context() as context:
        context.setattr(transfer, "iter_exported", break_off)
        with pytest.raises(StoreUnavailable):
            import_stream(elsewhere, "walk", exported)
    assert len(elsewhere.list_spans("walk")) == 2
    broken = elsewhere.get_info("walk")
    assert (broken.status, broken.error.partition(":")[0]) == ("paused", "ImportBrokenOff")
    import_stream(elsewhere, "walk", exported)
    assert elsewhere.get_info("walk") == opened.get_info("walk")
    assert digests(elsewhere, "walk") == digests(opened, "walk")


def test_changed_facts_of_the_stream_are_refused(opened, exported, elsewhere):
    data = exported.read_bytes()
    assert data.count(b'"status":"complete"')
    exported.write_bytes(data.replace(b'"status":"complete"', b'"status":"running!"'))
    with pytest.raises(CorruptValue, match="changed"):
        import_stream(elsewhere, "walk", exported)


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("which", [0, -1])
@pytest.mark.parametrize("column", ["tokens", "mass"])
def test_a_changed_value_of_an_export_is_refused(opened, exported, elsewhere, which, column):
    clip = opened.get_clip(opened.list_spans("walk")[which])
    values = getattr(clip.tokens, column).contiguous().view(torch.uint8).numpy().tobytes()
    data = bytearray(exported.read_bytes())
    at = data.find(values)
    assert at > 0
    data[at + len(values) // 2] ^= 0x10
    exported.write_bytes(data)
    with pytest.raises(CorruptValue):
        import_stream(elsewhere, "walk", exported)
    assert elsewhere.get_lease("walk") is None


@pytest.mark.parametrize("place", [0.3, 0.5, 0.6, 0.7, 0.9, 0.92, 0.94, 0.96, 0.98])
def test_a_change_of_a_byte_that_may_mean_nothing_is_refused_or_changes_nothing(
    opened, exported, elsewhere, place
):
    # Between columns, and between the parts of Arrow's footer, are bytes that mean nothing.
    flip(exported, place)
    try:
        import_stream(elsewhere, "walk", exported)
    except CorruptValue:
        assert elsewhere.get_lease("walk") is None
    else:
        assert digests(elsewhere, "walk") == digests(opened, "walk")


def test_what_is_no_export_is_refused(tmp_path, elsewhere):
    path = tmp_path / "text.arrow"
    path.write_text("no arrow at all\n" * 100)
    with pytest.raises(CorruptValue):
        import_stream(elsewhere, "walk", path)
