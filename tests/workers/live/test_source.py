"""A source kept alive: each end is told with its reason, and tried again after a bounded wait."""

import random
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from workers.decode.live import Picture
from workers.errors import SourceCrashed, SourceRefused, SourceStalled, SourceUnreachable, TooLarge
from workers.live.source import Backoff, LiveSource, Outage

QUICK = Backoff(first_s=0.001, longest_s=0.002)


class Scripted:
    """Connections that give so many pictures and then end as told; stops when used up."""

    def __init__(self, *script):
        self.script, self.stop = list(script), threading.Event()

    @contextmanager
    def connect(self):
        pictures, error = self.script.pop(0)
        if not self.script:
            self.stop.set()
        yield Connection(pictures, error)


class Connection:
    shed = 2

    def __init__(self, pictures, error):
        self.pictures, self.error = pictures, error

    def set_pace(self, pace):
        pass

    def __iter__(self):
        for number in range(self.pictures):
            yield Picture(np.zeros((1, 1, 3), np.uint8), float(number), 0, 0.0)
        if self.error is not None:
            raise self.error


def run(*script):
    scripted = Scripted(*script, (0, None))
    source = LiveSource(scripted.connect, backoff=QUICK, stop=scripted.stop, seed=0)
    return source, list(source.events())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, "disconnected"),
        (SourceStalled("s"), "stalled"),
        (SourceCrashed("c"), "crashed"),
        (SourceUnreachable("u"), "unreachable"),
        (TooLarge("its memory, used up by and by"), "crashed"),
    ],
)
def test_every_end_is_told_and_tried_again(error, reason):
    _, events = run((2, error), (1, None))

    outages = [event for event in events if isinstance(event, Outage)]
    connections = [event[0] for event in events if not isinstance(event, Outage)]
    assert outages[0].reason == reason
    assert connections == [0, 0, 1]


def test_what_trying_again_cannot_mend_is_raised():
    with pytest.raises(SourceRefused):
        run((0, SourceRefused("no")))
    with pytest.raises(TooLarge):
        run((2, TooLarge("by and by")), (0, TooLarge("from the first picture on")))


def test_tries_are_counted():
    source, _ = run((0, SourceUnreachable("u")), (0, SourceUnreachable("u")), (3, None))

    assert (source.tally.connections, source.tally.failures, source.tally.shed) == (1, 2, 8)


def test_failures_in_a_row_end_with_a_picture():
    failed = (0, SourceUnreachable("u"))

    _, events = run(failed, failed, (1, None), failed)

    assert [e.failures for e in events if isinstance(e, Outage)] == [1, 2, 0, 1]


def test_waits_double_up_to_the_longest():
    backoff, rng = Backoff(first_s=1.0, longest_s=30.0, jitter=0.5), random.Random(0)

    for failures in range(1, 2000):
        whole_s = min(30.0, 2.0 ** min(failures - 1, 10))
        assert whole_s / 2 <= backoff.wait_s(failures, rng) <= whole_s


def test_a_connection_that_ends_because_it_was_told_to_is_no_outage():
    scripted = Scripted((2, None))
    source = LiveSource(scripted.connect, backoff=QUICK, stop=scripted.stop, seed=0)

    assert list(source.events()) == []
    assert (source.tally.connections, source.tally.failures) == (0, 0)
