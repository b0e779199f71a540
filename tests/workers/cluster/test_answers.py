"""Questions answered by a worker on a real Ray: as in this process, whatever its readers do."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import ray
import torch

from tests.checkpoints import write_tiny_checkpoint
from tests.waits import wait_until
from workers.answer import AnswerSettings, open_answerer
from workers.cluster.answer import AnswerPlace
from workers.cluster.answer_actor import MAX_OPEN
from workers.cluster.cluster import ClusterSettings, open_cluster
from workers.errors import AnswererBusy, ModelChanged, ModelNotFound, PromptTooLong, WorkerLost
from workers.models import VisualSegment
from workers.seams import Answerer

pytestmark = pytest.mark.timeout(300)

QUESTION = "what is there ?"
LONG = 300
"""Tokens of an answer that is longer than what Ray would let a generator run ahead."""
ENDLESS = 30_000


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def segments() -> list[VisualSegment]:
    tokens = torch.randn(2, 30, 64, generator=torch.Generator().manual_seed(1))
    return [VisualSegment("[00:00]", tokens[0]), VisualSegment("[00:08]", tokens[1])]


@pytest.fixture(scope="module")
def local(model):
    return open_answerer(AnswerSettings(model))


@pytest.fixture(scope="module")
def long_answer(local, segments) -> list[str]:
    pieces = list(local.stream_answer(QUESTION, segments, max_new_tokens=LONG))
    assert len(pieces) > 100
    return pieces


@pytest.fixture(scope="module")
def cluster():
    with open_cluster(ClusterSettings(num_cpus=2)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def answers(cluster, model):
    with closing(cluster.open_answer(AnswerSettings(model), AnswerPlace(cpus=0.25))) as answers:
        yield answers


def pulse(answers):
    return ray.get(answers._actor.pulse.remote(), timeout=30)


def kill(answers) -> None:
    pid = ray.get(answers._actor.__ray_call__.remote(lambda self: os.getpid()), timeout=60)
    os.kill(pid, signal.SIGKILL)


def ask(answers, segments, max_new_tokens=LONG) -> list[str]:
    return list(answers.stream_answer(QUESTION, segments, max_new_tokens=max_new_tokens))


def test_it_is_an_answerer_with_the_facts_of_a_local_one(answers, local):
    assert isinstance(answers, Answerer)
    assert answers.identity == local.identity
    assert answers.reading == local.reading
    assert answers.context_length == local.context_length


def test_a_prompt_is_as_long_as_here(answers, local, segments):
    assert answers.count_tokens(QUESTION, segments) == local.count_tokens(QUESTION, segments)


def test_the_answer_is_the_local_one(answers, segments, long_answer):
    assert ask(answers, segments) == long_answer


def test_several_questions_at_once_get_their_answers(answers, local, segments):
    def ask_one(segment: VisualSegment) -> list[str]:
        return ask(answers, [segment], 20)

    asked = segments * 3
    expected = [ask(local, [segment], 20) for segment in asked]
    with ThreadPoolExecutor(len(asked)) as threads:
        assert list(threads.map(ask_one, asked)) == expected


def test_as_many_are_written_together_as_it_is_opened_for(cluster, model, local, segments):
    settings, place = AnswerSettings(model, together=2), AnswerPlace(cpus=0.25)
    expected = ask(local, segments[:1], 20)
    with closing(cluster.open_answer(settings, place)) as answers:
        long = [answers.stream_answer(QUESTION, segments, max_new_tokens=ENDLESS) for _ in range(2)]
        assert all(next(pieces) for pieces in long)  # neither waits for the other's end
        with ThreadPoolExecutor(1) as thread:
            third = thread.submit(ask, answers, segments[:1], 20)
            wait_until(lambda: pulse(answers).waiting == 1)
            long[0].close()
            assert third.result(60) == expected
        long[1].close()


def test_a_reader_that_stops_holds_up_nobody_and_may_go_on(answers, segments, long_answer):
    pieces = answers.stream_answer(QUESTION, segments, max_new_tokens=LONG)
    first = next(pieces)
    assert ask(answers, segments) == long_answer
    assert [first, *pieces] == long_answer


def test_closing_early_ends_the_generation(answers, segments):
    before = pulse(answers).written
    pieces = answers.stream_answer(QUESTION, segments, max_new_tokens=ENDLESS)
    next(pieces)
    pieces.close()
    wait_until(lambda: not pulse(answers).writing)
    assert 1 <= pulse(answers).written - before < ENDLESS / 10


def test_tokens_are_counted_while_an_answer_is_written(answers, segments):
    pieces = answers.stream_answer(QUESTION, segments, max_new_tokens=ENDLESS)
    next(pieces)
    assert answers.count_tokens(QUESTION, segments) > 60
    assert pulse(answers).writing
    pieces.close()


def test_scores_are_those_of_a_model_in_this_process(answers, local, segments):
    parts = [[segment] for segment in segments]
    expected = local.score_relevance(QUESTION, parts)
    assert answers.score_relevance(QUESTION, parts) == pytest.approx(expected, abs=1e-4)
    assert len(set(expected)) == len(parts) > 1


def test_what_is_wrong_with_a_question_is_its_own_error(answers, segments):
    with pytest.raises(PromptTooLong, match="expected at most"):
        ask(answers, segments, answers.context_length)


def test_no_more_questions_are_taken_than_it_can_hold(answers, segments):
    names = [f"open-{number}" for number in range(MAX_OPEN)]
    for name in names:
        ray.get(answers._actor.ask.remote(name, QUESTION, segments, 1, answers._digest))
    with pytest.raises(AnswererBusy, match=f"{MAX_OPEN} questions are open"):
        ask(answers, segments)
    ray.get([answers._actor.leave.remote(name) for name in names])
    assert ask(answers, segments, 4)


def test_an_answer_that_nobody_reads_is_given_up(cluster, model, segments):
    place = AnswerPlace(cpus=0.25, reader_timeout_s=5.0)
    with closing(cluster.open_answer(AnswerSettings(model), place)) as answers:
        pieces = answers.stream_answer(QUESTION, segments, max_new_tokens=ENDLESS)
        next(pieces)
        wait_until(lambda: not pulse(answers).writing)
        assert pulse(answers).written < ENDLESS / 2
        with pytest.raises(WorkerLost, match="not read for 5 s; ask again"):
            list(pieces)


def test_a_worker_that_dies_is_an_error_and_the_question_may_be_asked_again(
    cluster, tmp_path, segments, long_answer
):
    folder = write_tiny_checkpoint(tmp_path / "tiny")
    settings = AnswerSettings(str(folder))
    with closing(cluster.open_answer(settings, AnswerPlace(cpus=0.25))) as answers:
        pieces = answers.stream_answer(QUESTION, segments, max_new_tokens=ENDLESS)
        next(pieces)
        kill(answers)
        with pytest.raises(WorkerLost, match="ask again"):
            list(pieces)
        assert ask(answers, segments) == long_answer

        write_tiny_checkpoint(folder, seed=1)
        kill(answers)
        for refused in (ask, lambda *of: of[0].count_tokens(QUESTION, of[1])):
            with pytest.raises(ModelChanged, match="weights behind the name have changed"):
                refused(answers, segments)


def test_a_missing_model_is_named(cluster):
    with pytest.raises(ModelNotFound, match="/nowhere/at-all"):
        cluster.open_answer(AnswerSettings("/nowhere/at-all"), AnswerPlace(cpus=0.25))


def test_no_place_is_an_error_in_bounded_time(cluster, model):
    place = AnswerPlace(resources={"moon": 1.0}, ready_timeout_s=1.0)
    with pytest.raises(WorkerLost, match=r"needs 0.5 CPU, 0 GPU \{'moon': 1.0\}"):
        cluster.open_answer(AnswerSettings(model), place)
