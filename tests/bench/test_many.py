"""The bench of many streams that are nearly idle: a short run of a few."""

import json

import pytest

from bench.many import available_bytes, main


def test_the_kernel_tells_what_memory_there_is():
    assert available_bytes() > 1 << 20


@pytest.mark.slow
def test_a_few_streams_are_carried_and_counted():
    told: list[str] = []
    arguments = ["--streams", "3", "--seconds", "12", "--fps", "0.5", "--camera-fps", "1"]
    assert main(arguments, tell=told.append) == 0
    figures = json.loads(told[0])
    assert (figures["streams"], figures["wanted"], figures["bound_by"]) == (3, 3, "nothing")
    assert figures["silent"] == 0
    waiting = 3 * 3  # of each stream, pictures that had come before the count began
    assert 0 < figures["encoded"] <= figures["expected"] + waiting
    assert figures["decoder_mb"] > 5
    assert 0 < figures["cores"] < 2
