"""A pusher without a model, a sink in memory and a scripted source, for the session's own rules."""

from dataclasses import replace

import numpy as np
import torch

from aot import ClipTokens, InvalidFeatures, concatenate
from workers.decode.live import Picture
from workers.live.source import Outage, SourceTally
from workers.seams import Pushed
from workers.types import Cursor

GRID = (2, 2)


class Canned:
    """One token a frame, which is the frame's mean; a black frame has no usable features.

    A model that takes two frames for a token gives one for every second. What a stream showed last
    is not encoded again.
    """

    def __init__(self, frames=1):
        self._frames, self._last = frames, {}

    def push(self, push, *, timeout_s):
        patches = [
            push.pixels[at : at + self._frames] for at in range(0, len(push.pixels), self._frames)
        ]
        values = [float(patch.mean()) for patch in patches]
        if 0 in values:
            raise InvalidFeatures("not finite")
        first = 0 if push.state is None else push.state
        given = [tokens([value], first + number) for number, value in enumerate(values)]
        recalled = 0
        for patch in patches if push.recurring else ():
            recalled += len(patch) * np.array_equal(patch, self._last.get(push.recurring))
            self._last[push.recurring] = patch
        after = first + len(values)
        return Pushed(concatenate(given), after, 4 * len(values), 0.0, 0.0, recalled)

    def finish(self, state, dtype):
        return tokens([], 0)


def tokens(values, frame):
    count = len(values)
    return ClipTokens(
        tokens=torch.tensor(values).view(count, 1),
        frame=torch.full((count,), frame),
        cell=torch.zeros(count, dtype=torch.int64),
        mass=torch.ones(count),
        kind=torch.zeros(count, dtype=torch.uint8),
        grid=GRID,
    )


class MemorySink:
    """Keeps what it is given; what an earlier run kept is where the next one goes on."""

    def __init__(self):
        self.clips, self.gaps, self.opened, self.report = [], [], [], None
        self.wall_start_s = None
        self.clocks = []

    def position(self):
        if not self.clips:
            return None
        last = self.clips[-1]
        return Cursor(last.epoch, last.index, last.pts_s[-1], last.end_s)

    def recover_open(self):
        if self.opened and self.opened[-1].index >= len(self.clips):
            self.clips.append(self.opened[-1])
        stands = self.position()
        if stands is None or not self.gaps:
            return stands
        return replace(stands, end_s=max(stands.end_s, *(gap.end_s for gap in self.gaps)))

    def covered_s(self):
        return max((one.end_s for one in [*self.clips, *self.gaps]), default=0.0)

    def fix_wall_start(self, wall_start_s):
        self.wall_start_s = wall_start_s if self.wall_start_s is None else self.wall_start_s
        return self.wall_start_s

    def tell_clock(self, epoch, clock):
        self.clocks.append((epoch, clock))

    def put(self, clip):
        self.clips.append(clip)
        return 100

    def put_open(self, clip):
        self.opened.append(clip)
        return 100

    def put_gap(self, gap):
        same = (gap.epoch, gap.start_s, gap.reason)
        others = [g for g in self.gaps if (g.epoch, g.start_s, g.reason) != same]
        self.gaps = [*others, gap]

    def finish(self, report):
        self.report = report

    def close(self):
        pass

    def stretches(self):
        """Every (start, end) that is accounted for, in order."""
        return sorted((one.start_s, one.end_s) for one in [*self.clips, *self.gaps])


class Script:
    """A live source that plays events; pictures are given as (media_s, arrived_s, brightness)."""

    def __init__(self, *events):
        self._events, self.tally, self.paces = events, SourceTally(), []

    def set_pace(self, pace):
        self.paces.append(pace)

    def events(self):
        connection = 0
        for event in self._events:
            if isinstance(event, str):
                connection += 1
                yield Outage(event, "it went", 0)
            else:
                media_s, arrived_s, brightness = event
                rgb = np.full((8, 8, 3), brightness, np.uint8)
                yield connection, Picture(rgb, float(media_s), 0, float(arrived_s))
