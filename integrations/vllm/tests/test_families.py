"""The families that vLLM can ask say by both doors what the model itself says."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch

from integrations.vllm.tests.asking import ask_here, ask_there, read_segments
from integrations.vllm.tests.conftest import ingest_three_clips
from integrations.vllm.tests.serving import VLLM, Server, serve
from integrations.vllm.tests.test_doors import DOORS, NEAR, question
from pipeline.store import ClipStore, StoreConfig, open_store
from pipeline.store.embedded import start_embedded, stop_embedded
from tests.checkpoints import write_tiny_internvl, write_tiny_llava_video
from workers.answer import AnswerSettings
from workers.models import open_language_model
from workers.models.language import CachedTokensLanguageModel

WRITERS: dict[str, Callable[[Path], Path]] = {
    "internvl": partial(write_tiny_internvl, llm_heads=2),  # 32 wide: vLLM's least on a CPU
    "llava_qwen": partial(write_tiny_llava_video, llm_heads=2),
}


@dataclass(frozen=True)
class Served:
    """A checkpoint of a family in this process and in a server, and a store of its tokens."""

    folder: Path
    model: CachedTokensLanguageModel
    store: ClipStore
    server: Server


@pytest.fixture(scope="module", params=WRITERS)
def served(request, tmp_path_factory) -> Iterator[Served]:
    if not VLLM.is_file():
        pytest.skip(f"no vLLM at {VLLM}: `make test-vllm` makes an environment for it")
    root = tmp_path_factory.mktemp(request.param)
    folder = WRITERS[request.param](root / "model")
    try:
        for stream, retention in (("full", 1.0), ("tenth", 0.1)):
            ingest_three_clips(root, stream, folder, retention)
        config = StoreConfig(f"unix://{start_embedded(root / 'store').socket}")
        model = open_language_model(folder)
        assert isinstance(model, CachedTokensLanguageModel)
        with (
            open_store(config) as store,
            serve(config.url, root / "vllm.log", folder) as server,
        ):
            yield Served(folder, model, store, server)
    finally:
        stop_embedded(root / "store")


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("stream", ["full", "tenth"])
@pytest.mark.parametrize("fields", [{}, {"start": 3, "end": 13}], ids=["all", "range"])
def test_ids_and_log_probabilities_are_those_of_the_model(served, door, stream, fields):
    asked = question(streams=(stream,), **fields)
    segments = read_segments(served.store, served.model, asked)
    here = ask_here(served.model, asked.text, segments, asked.max_new_tokens)
    with closing(DOORS[door](AnswerSettings(str(served.folder)), served.server.url)) as engine:
        there = ask_there(engine, asked.text, segments, asked.max_new_tokens)
    assert there.ids == here.ids
    torch.testing.assert_close(there.logprobs, here.logprobs, atol=NEAR, rtol=0)
    torch.testing.assert_close(there.top, here.top, atol=NEAR, rtol=0)


def test_the_second_question_finds_the_window_read(served):
    asked = question(streams=("full",), start=1, end=23)
    segments = read_segments(served.store, served.model, asked)
    settings = AnswerSettings(str(served.folder))
    with closing(DOORS["store"](settings, served.server.url)) as engine:
        ask_there(engine, "what was seen ?", segments, 4)
        assert ask_there(engine, asked.text, segments, 4).cached > 100
