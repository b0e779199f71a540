"""What a decoder's process does with pictures that nobody takes in time."""

import ctypes
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.waits import wait_until
from workers.decode.live import LiveDecoder, LiveTally, Picture
from workers.live import child
from workers.live.wire import MessageWriter

HELD_UP = """
from pathlib import Path
from workers.live.child import give_memory_back

def resident():
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) << 10

bytearray(500_000)  # from here on blocks of a picture's size lie in the heap
pictures = [bytearray(b"x" * 170_000) for _ in range(400)]
pin = bytearray(b"x" * 170_000)
held = resident()
del pictures
kept = resident()
give_memory_back()
print(held, kept, resident(), len(pin))
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the allocator is not glibc's"
)
def test_memory_of_what_waited_goes_back_to_the_machine():
    done = subprocess.run(
        [sys.executable, "-c", HELD_UP], capture_output=True, text=True, timeout=120, check=True
    )
    held, kept, after, _ = map(int, done.stdout.split())
    assert held - kept < 10_000_000  # what lies behind it keeps it
    assert held - after > 50_000_000


class Messages(MessageWriter):
    """A pipe that takes nothing until it is let go."""

    def __init__(self):
        self.go, self.beats = threading.Event(), 0

    def write(self, message):
        self.go.wait()
        self.beats += isinstance(message, child.Beat)


class Decoder(LiveDecoder):
    """So many pictures at once; nothing more until the end."""

    def __init__(self, count, done, end):
        context: Any = SimpleNamespace(width=320, height=240)
        self.track: Any = SimpleNamespace(stream=SimpleNamespace(codec_context=context))
        self.tally = LiveTally()
        self._count, self._done, self._end = count, done, end

    def pictures(self):
        for _ in range(self._count):
            yield Picture(np.zeros((1, 1, 3), np.uint8), 0.0, 0, arrived_s=0.0)
        self._done.set()
        self._end.wait()


@pytest.mark.parametrize(("count", "times"), [(2, 0), (60, 1)])
def test_a_queue_that_was_long_is_given_back_once_it_is_empty(monkeypatch, count, times):
    """Pictures of 230 kB, of which 36 are worth it."""
    given, end, messages = [], threading.Event(), Messages()
    monkeypatch.setattr(child, "give_memory_back", lambda: given.append(messages.go.is_set()))
    monkeypatch.setattr(child, "BEAT_S", 0.01)

    thread = threading.Thread(target=child._Sender(Decoder(count, messages.go, end), messages).run)
    thread.start()
    wait_until(lambda: messages.beats > 3)
    end.set()
    thread.join()
    assert given == [True] * times
