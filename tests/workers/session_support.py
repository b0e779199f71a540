"""What the session tests share: made-up clips, a sink in a folder, workers without a model.

Picklable and self-contained: the cluster's processes get this module by value.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from aot import AOTConfig, ClipTokens
from workers.errors import ModelNotFound, SourceUnreachable, WorkerBroken
from workers.models.base import ModelIdentity
from workers.seams import SessionReport, WorkerInfo
from workers.types import (
    Clip,
    ClipStats,
    CompressedClip,
    Cursor,
    FailedClip,
    GapReason,
    PixelFormat,
    SourceEnd,
    StreamGap,
    VideoSource,
)

INFO = WorkerInfo(
    identity=ModelIdentity("tiny", "local", "llava_onevision", "w", "p", "float32"),
    pixel_format=PixelFormat(8, 8),
    grid=(2, 2),
    dim=4,
    reducer="none",
    config=AOTConfig(),
    clip_frames=4,
)


def make_clip(
    stream_id: str, index: int, info: WorkerInfo = INFO, *, start_s: float | None = None
) -> Clip:
    """A clip whose pixels follow from its stream and index alone."""
    seed = int.from_bytes(hashlib.sha256(f"{stream_id}/{index}".encode()).digest()[:4], "big")
    size = (info.clip_frames, info.pixel_format.height, info.pixel_format.width, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    begin_s = float(index * info.clip_frames) if start_s is None else start_s
    pts_s = begin_s + np.arange(info.clip_frames, dtype=np.float64)
    return Clip(stream_id, 0, index, pixels, pts_s, float(pts_s[-1]) + 1.0)


@dataclass
class CannedReader:
    """Clips from a url such as `canned:clips=8,delay=0.1,truncated=1,jump=3,break=5`.

    Also `by`, `truncated`, `damaged`, and `lossy`: the reason of its gaps."""

    source: VideoSource
    info: WorkerInfo
    first: int
    interval_s: float = 1.0
    end: SourceEnd = "complete"

    def __post_init__(self) -> None:
        pairs = [part.split("=") for part in self.source.url.removeprefix("canned:").split(",")]
        self.options = {key: float(value) for key, value in pairs}
        self.total_s = self.options["clips"] * self.info.clip_frames

    def why_gap(self, index: int) -> GapReason:
        return "damaged" if self.options.get("lossy") else "gap"

    def __iter__(self) -> Iterator[Clip]:
        jump = self.options.get("jump", float("inf"))
        for index in range(self.first, int(self.options["clips"])):
            if index == self.options.get("break"):
                raise SourceUnreachable("the source went away")
            time.sleep(self.options.get("delay", 0.0))
            jumped_s = self.options.get("by", 100.0) if index >= jump else 0.0
            start_s = index * self.info.clip_frames + jumped_s
            yield make_clip(self.source.stream_id, index, self.info, start_s=start_s)
        if self.options.get("damaged"):
            self.end = "damaged"
        if self.options.get("truncated"):
            self.end = "truncated"
            self.total_s += 10.0


@contextmanager
def open_canned(
    source: VideoSource, info: WorkerInfo, cursor: Cursor | None
) -> Iterator[CannedReader]:
    yield CannedReader(source, info, 0 if cursor is None else cursor.index + 1)


class ModelFreeWorkers:
    """Compresses by averaging; clips whose index is in `fails` come back failed."""

    info = INFO

    def __init__(self, fails: tuple[int, ...] = ()) -> None:
        self.fails = fails
        self.seen: list[int] = []

    def compress_stream(self, clips, *, stop=None):
        for clip in clips:
            if stop is not None and stop.is_set():
                return
            self.seen.append(clip.index)
            yield self._compress(clip)

    def _compress(self, clip: Clip) -> CompressedClip | FailedClip:
        start_s = float(clip.pts_s[0])
        if clip.index in self.fails:
            return FailedClip(clip.stream_id, 0, clip.index, start_s, clip.end_s, "no memory")
        kept = len(clip.pts_s)
        tokens = ClipTokens(
            tokens=torch.from_numpy(clip.pixels.mean((2, 3))[:, :4].astype(np.float32)),
            frame=torch.arange(kept),
            cell=torch.zeros(kept, dtype=torch.int64),
            mass=torch.ones(kept),
            kind=torch.zeros(kept, dtype=torch.uint8),
            grid=(1, 1),
        )
        return CompressedClip(
            clip.stream_id,
            0,
            clip.index,
            start_s,
            clip.end_s,
            tuple(clip.pts_s.tolist()),
            tokens,
            stats=ClipStats(frames_in=kept, tokens_in=4 * kept, tokens_out=kept),
        )

    def close(self) -> None:
        pass


class StandIn:
    """What an actor holds, without a model; told by the settings' model how it loads.

    `standin:load=2,dies=FILE,weights=FILE,away=FILE`: seconds to load; die while loading if FILE
    is there; be the model that FILE says; raise while FILE is there. A stream called `deadly-3`
    kills the process with its clip 3; `raising-3`, `broken-3`, `stuck-3`, `hanging-3` do as named;
    `slow` takes .1 s a clip, `uneven` every second one.
    """

    batch_clips = 8
    batches_at_once = 1

    def __init__(self, settings):
        parts = [part.split("=") for part in settings.model.removeprefix("standin:").split(",")]
        self.options = {key: value for key, *rest in parts for value in rest}
        time.sleep(float(self.options.get("load", 0)))
        if os.path.exists(self.options.get("dies", "")):
            os._exit(1)
        if os.path.exists(self.options.get("away", "")):
            raise ModelNotFound("the folder is away")
        self.info = INFO
        if "weights" in self.options:
            weights = Path(self.options["weights"]).read_text()
            self.info = replace(INFO, identity=replace(INFO.identity, weights=weights))

    def compress(self, clips):
        for clip in clips:
            self.suffer(clip)
        return list(ModelFreeWorkers().compress_stream(clips))

    def suffer(self, clip):
        what, _, index = clip.stream_id.partition("-")
        if what == "slow" or (what == "uneven" and clip.index % 2):
            time.sleep(0.1)
        if not index or clip.index != int(index):
            return
        if what == "deadly":
            time.sleep(0.05)
            os._exit(1)
        if what == "raising":
            raise ZeroDivisionError("a fault of this clip")
        if what == "broken":
            raise WorkerBroken("the device is broken: CUDA error: device-side assert")
        if what in ("stuck", "hanging"):
            time.sleep(4 if what == "stuck" else 600)

    def push(self, pushes):
        raise NotImplementedError

    def finish(self, state, dtype):
        raise NotImplementedError

    def close(self):
        pass


def clip_digest(clip: CompressedClip) -> str:
    """Of everything that is stored of a clip, but for what it cost."""
    kept = clip.tokens
    digest = hashlib.sha256(repr((replace(clip, stats=ClipStats()), clip.pts_s)).encode())
    for name in ("tokens", "frame", "cell", "mass", "kind"):
        column = getattr(kept, name)
        digest.update(f"{name} {column.dtype} {tuple(column.shape)}".encode())
        digest.update(column.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class FolderSink:
    """One JSON file per clip with the digest of its tensors; each written once, whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def position(self) -> Cursor | None:
        clips = sorted(self.folder.glob("clip-*.json"))
        if not clips:
            return None
        last = json.loads(clips[-1].read_text())
        complete = (self.folder / "complete").exists()
        return Cursor(last["epoch"], last["index"], last["pts_s"][-1], last["end_s"], complete)

    def put(self, clip: CompressedClip) -> int:
        record = {
            "epoch": clip.epoch,
            "index": clip.index,
            "pts_s": clip.pts_s,
            "end_s": clip.end_s,
            "wall_start_s": clip.wall_start_s,
            "digest": clip_digest(clip),
        }
        self._write(f"clip-{clip.index:06d}.json", json.dumps(record))
        return clip.tokens.tokens.nbytes

    def put_gap(self, gap: StreamGap) -> None:
        name = f"gap-{gap.reason}-{gap.start_s}-{gap.end_s}"
        self._write(name, "")

    def finish(self, report: SessionReport) -> None:
        self._write("report.json", json.dumps(report.__dict__))
        if report.state == "complete":
            self._write("complete", "")

    def close(self) -> None:
        self._write("closed", "")

    def _write(self, name: str, text: str) -> None:
        part = self.folder / f".{name}.{os.getpid()}"
        part.write_text(text)
        part.rename(self.folder / name)


@dataclass(frozen=True)
class FolderSinkFactory:
    """Opens a `FolderSink`, wherever the session runs."""

    folder: Path

    def open(self) -> FolderSink:
        return FolderSink(self.folder)


def digests(folder: Path) -> dict[int, str]:
    """What a folder sink holds: clip index to digest."""
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("clip-*.json"))]
    return {record["index"]: record["digest"] for record in records}


def gaps(folder: Path) -> list[tuple[str, float, float]]:
    """What gaps a folder sink holds: reason, start, end."""
    parts = [path.name.split("-") for path in folder.glob("gap-*")]
    return sorted((reason, float(start), float(end)) for _, reason, start, end in parts)


def report(folder: Path) -> dict:
    """How the last session ended."""
    return json.loads((folder / "report.json").read_text())
