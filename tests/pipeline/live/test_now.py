"""What is asked about now, while a session writes: the clip that the camera is at is read too."""

import time

from pipeline.ask.run import Question, ask
from pipeline.store import open_store
from tests.pipeline.live.runs import STREAM, live_settings, running
from workers.models import open_language_model

QUESTIONS = 12


def test_a_question_about_now_reads_the_open_clip(camera, server_folder):
    settings = live_settings(f"embedded://{server_folder}", clip_frames=10)
    model = open_language_model(settings.model.id)
    asked = Question("was there a red circle ?", (STREAM,), last=3.0, max_new_tokens=2)
    told = []
    with open_store(settings.store_config()) as store, running(settings, camera.url) as run:
        while len(told) < QUESTIONS or not any(spans[-1].is_open for spans in told):
            assert run.is_running, run.error
            spans = ask(store, model, asked).citations
            told.append(spans)
            time.sleep(0.2)
    for spans in told:
        places = [(span.epoch, span.index) for span in spans]
        assert places == sorted(set(places))
        assert not any(span.is_open for span in spans[:-1])
    reached_s = [spans[-1].end_s for spans in told]
    assert reached_s == sorted(reached_s)
