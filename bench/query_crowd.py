"""The fourth part of `aot bench query`: many who ask at one time, while four cameras come in.

A day of one stream's cache (clips of a generated scene, again and again, with the levels over them)
and four cameras over RTSP, all ingested by a process of its own into the same store. One, four and
sixteen clients ask the service over HTTP, each its next question once the last is answered: of
16 s, of an hour, of the whole day, in turns, those that are shorter at places drawn by chance;
merged windows are not kept. Told are milliseconds of the retrieval (index and values), of what was
waited for its turn, and of the whole as a client sees it; and what the cameras lost. Sixteen ask
once more of a service that answers one question at a time, and of one that keeps windows, all of
the same three: what either is worth.
"""

import http.client
import json
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from bench.camera import write_camera_clips
from bench.folders import own_folder, store_url
from bench.live import CAMERA_FPS, bundled_model, make_recording
from bench.rtsp_server import serve_apart
from pipeline.ingest.live import LiveEnd, ingest_live
from pipeline.ingest.request import IngestRequest
from pipeline.ingest.run import ingest
from pipeline.serve.http import listen, make_server
from pipeline.serve.service import Service
from pipeline.settings import Settings, load_settings
from pipeline.store import open_store
from pipeline.store.pyramid import Pyramid
from workers.live.session import LiveProgress
from workers.types import VideoSource

DAY_S = 86_400.0
CAMERAS, CLIENTS = 4, (1, 4, 16)
SECONDS = 20.0
"""Of every number of clients."""
START_S = 120.0
RANGES: Mapping[str, float] = {"16s": 16.0, "1h": 3600.0, "24h": DAY_S}
QUESTIONS = ("What is seen?", "What is red?", "Is there a circle?", "How many are there?")

Report = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """One question as its client saw it."""

    of: str
    whole_ms: float
    retrieval_ms: float
    wait_ms: float
    first_token_ms: float


def measure_crowd(
    *,
    seconds: float = SECONDS,
    clients: Sequence[int] = CLIENTS,
    day_s: float = DAY_S,
    on_progress: Report = lambda _: None,
) -> dict[str, Any]:
    """`crowd`: figures of each number of clients; `crowd_lost`: frames that were shed, gaps."""
    result: dict[str, Any] = {"crowd": [], "crowd_lost": None}
    with own_folder() as folder:
        settings = filled_day(folder, day_s, on_progress)
        make_levels(settings)
        with (
            serve_apart(make_recording(CAMERA_FPS)) as (url, _),
            _ingesting(settings, url) as end,
        ):
            for kind, together, kept_bytes, counts in (
                ("own", max(clients), 0, clients),
                ("own", 1, 0, [max(clients)]),
                ("same", max(clients), 1 << 28, [max(clients)]),
            ):
                with _serving(settings, together=together, kept_windows=kept_bytes) as port:
                    for count in counts:
                        figures = _measure(port, count, seconds, is_same=kind == "same")
                        told = {"clients": count, "together": together, "windows": kind, **figures}
                        result["crowd"].append(told)
                        on_progress(json.dumps(told))
            result["crowd_lost"] = end()
    return result


def given_settings(folder: Path) -> dict[str, Any]:
    """A store of its own in a folder, and the bundled model."""
    return {
        "model": {"id": str(bundled_model(folder))},
        "store": {"url": store_url(folder)},
        "live": {"networks": ("127.0.0.0/8",)},
        "ray": {"enabled": False},
        "serve": {"port": 0, "keys_file": str(folder / "none.json"), "requests_per_s": 1e6},
    }


def filled_day(folder: Path, day_s: float, on_progress: Report = lambda _: None) -> Settings:
    """Settings whose store has the stream `day`: a scene's clips, moved on until it is full."""
    on_progress(f"storing {day_s / 3600:g} h of cache")
    settings = load_settings(None, given_settings(folder))
    [video] = write_camera_clips(folder, (25,), seconds=32, height=360, width=640).values()
    list(ingest(settings, [IngestRequest(VideoSource(str(video), "scene"))]))
    with open_store(settings.store_config()) as store:
        info = replace(store.get_info("scene"), stream_id="day")
        clips = list(store.iter_clips(store.list_spans("scene")))
        store.put_info(info)
        lease = store.acquire_lease("day", "bench", ttl_s=3600)
        index, at_s = 0, 0.0
        while at_s < day_s:
            clip = clips[index % len(clips)]
            by_s, length_s = at_s - clip.start_s, clip.end_s - clip.start_s
            moved = replace(
                clip,
                stream_id="day",
                index=index,
                start_s=at_s,
                end_s=at_s + length_s,
                pts_s=tuple(pts_s + by_s for pts_s in clip.pts_s),
            )
            store.put_clip(moved, lease, fingerprint=info.fingerprint)
            index, at_s = index + 1, at_s + length_s
    return settings


def make_levels(settings: Settings) -> int:
    """Those of the stream `day`, as its session makes them beside the writing; how many."""
    with open_store(settings.store_config()) as store:
        return Pyramid(store, "day").turn()


@contextmanager
def _serving(settings: Settings, **changes: int) -> Iterator[int]:
    """A service with other settings of `serve`; its port."""
    settings = settings.model_copy(update={"serve": settings.serve.model_copy(update=changes)})
    with listen(settings) as at:
        service = Service(settings)
        server = make_server(service)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [at]}, daemon=True)
        thread.start()
        service.load()
        service.answers.answerers()
        try:
            yield at.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(START_S)
            service.close()


def _measure(port: int, clients: int, seconds: float, *, is_same: bool) -> dict[str, Any]:
    """All ask for so long."""
    _ask(port, 0, 0, is_same=is_same)  # warms what is loaded at first use
    until_s, began_s = time.monotonic() + seconds, time.perf_counter()

    def ask_on(client: int) -> list[Asked]:
        told: list[Asked] = []
        while time.monotonic() < until_s or not told:
            told.append(_ask(port, client, len(told), is_same=is_same))
        return told

    with ThreadPoolExecutor(clients) as pool:
        asked = [one for told in pool.map(ask_on, range(clients)) for one in told]
    took_s = time.perf_counter() - began_s
    figures: dict[str, Any] = {
        "questions": len(asked),
        "per_s": round(len(asked) / took_s, 2),
        "load_average": round(os.getloadavg()[0], 1),
    }
    for of in RANGES:
        of_range = [one for one in asked if one.of == of]
        for name in ("retrieval_ms", "wait_ms", "whole_ms"):
            values = [getattr(one, name) for one in of_range] or [float("nan")]
            for p in (50, 99):
                figures[f"{of}_{name}_p{p}"] = round(float(np.percentile(values, p)), 1)
    return figures


def _ask(port: int, client: int, number: int, *, is_same: bool) -> Asked:
    """One question over HTTP.

    Raises:
        RuntimeError: it was not answered.
    """
    of = list(RANGES)[(client + number) % len(RANGES)]
    place = random.Random("all" if is_same else f"{client} {number}")
    start_s = place.uniform(0, DAY_S - RANGES[of])
    body = {
        "question": QUESTIONS[number % len(QUESTIONS)],
        "streams": [{"stream_id": "day", "start": start_s, "end": start_s + RANGES[of]}],
        "options": {"max_visual_tokens": 2000},
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_S)
    began_s = time.perf_counter()
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/ask", json.dumps(body), headers)
        answer = connection.getresponse()
        told = json.loads(answer.read())
    finally:
        connection.close()
    if answer.status != 200:
        raise RuntimeError(f"a question was answered {answer.status}: {told}")
    cost = told["evidence"]["cost"]
    retrieval_ms = cost["index_ms"] + cost["load_ms"]
    whole_ms = (time.perf_counter() - began_s) * 1000
    return Asked(of, whole_ms, retrieval_ms, cost["wait_ms"], cost["first_token_ms"])


@contextmanager
def _ingesting(settings: Settings, url: str) -> Iterator[Callable[[], dict[str, Any]]]:
    """Cameras come in by a process of its own; the function ends it and tells what was lost."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_ingest, args=(settings, url, theirs), daemon=True)
    process.start()
    theirs.close()

    def end() -> dict[str, Any]:
        ours.send("end")
        if not ours.poll(START_S):
            raise RuntimeError("the cameras' process did not end")
        return ours.recv()

    try:
        if not ours.poll(START_S):
            raise RuntimeError("the cameras did not come in")
        ours.recv()
        yield end
    finally:
        ours.close()
        process.join(START_S)


def _ingest(settings: Settings, url: str, pipe: Connection) -> None:
    """All cameras until the other end says so; then what each lost."""
    stop, last, ready = threading.Event(), {}, False
    threading.Thread(target=lambda: (_wait(pipe), stop.set()), daemon=True).start()
    requests = [IngestRequest(VideoSource(url, f"cam{n}", 1.0)) for n in range(CAMERAS)]
    for news in ingest_live(settings, requests, stop=stop):
        if isinstance(news, LiveEnd):
            if news.error is not None:
                raise RuntimeError(f"{news.stream_id} failed: {news.error}")
            continue
        last[news.stream_id] = news
        if not ready and len(last) == CAMERAS and all(one.encoded >= 2 for one in last.values()):
            ready = True
            pipe.send("ready")
    pipe.send(_lost(list(last.values())))


def _wait(pipe: Connection) -> None:
    try:
        pipe.recv()
    except EOFError:
        return


def _lost(seen: Sequence[LiveProgress]) -> dict[str, Any]:
    return {
        "frames": sum(one.encoded + one.held for one in seen),
        "shed": sum(one.source.shed for one in seen),
        "failed": sum(one.failed for one in seen),
        "gaps": sum(sum(one.gaps.values()) for one in seen),
        "rungs": sorted({one.rung for one in seen}),
        "seconds": round(max(one.position_s for one in seen), 1),
    }
