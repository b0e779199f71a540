"""What asks a language model elsewhere asks as the one that is loaded here does."""

import pytest
import torch

from aot import InvalidFeatures
from tests.checkpoints import write_tiny_checkpoint
from tests.workers.models.families.cases import CASES
from workers.errors import InvalidCheckpoint, UnsupportedModel
from workers.models import (
    READ_ELSEWHERE,
    VisualSegment,
    open_language_model,
    open_token_reader,
)
from workers.models.checkpoint import open_checkpoint
from workers.models.language import CachedTokensLanguageModel

WRITERS = {"llava_onevision": write_tiny_checkpoint, **{case.name: case.write for case in CASES}}


@pytest.mark.parametrize("family", READ_ELSEWHERE)
def test_rows_and_prompts_are_those_of_the_loaded_model(family, tmp_path):
    folder = WRITERS[family](tmp_path / "m")
    reader, model = open_token_reader(folder), open_language_model(folder)
    assert isinstance(model, CachedTokensLanguageModel)
    segments = [VisualSegment(f"[00:00:{n:02d}]", torch.randn(n, model.dim)) for n in (3, 0, 7)]
    assert reader.identity.same_model(model.identity)
    assert (reader.reading, reader.dim) == (model.reading, model.dim)
    assert reader.context_length == model.context_length
    assert reader.count_tokens("what ?", segments) == model.count_tokens("what ?", segments)
    rows = torch.cat([reader.read_run(s) for s in segments if len(s.tokens)])
    features = model._features(segments)
    assert features is not None
    assert rows.float().equal(features)


@pytest.mark.parametrize("family", sorted(set(WRITERS) - set(READ_ELSEWHERE)))
def test_another_family_is_refused(family, tmp_path):
    with pytest.raises(UnsupportedModel, match="llava_onevision"):
        open_token_reader(WRITERS[family](tmp_path / "m"))


def test_bf16_tokens_stay_so_beside_a_newline_of_bf16(tmp_path):
    reader = open_token_reader(write_tiny_checkpoint(tmp_path / "m", dtype=torch.bfloat16))
    rows = reader.read_run(VisualSegment("", torch.zeros(4, reader.dim, dtype=torch.bfloat16)))
    assert (rows.dtype, len(rows)) == (torch.bfloat16, 5)


def test_tokens_of_another_width_are_refused(tmp_path):
    reader = open_token_reader(write_tiny_checkpoint(tmp_path / "m"))
    with pytest.raises(InvalidFeatures, match="another model"):
        reader.read_run(VisualSegment("", torch.zeros(4, reader.dim + 1)))


def test_a_weight_that_is_not_there_is_named(tmp_path):
    checkpoint = open_checkpoint(write_tiny_checkpoint(tmp_path / "m"))
    with pytest.raises(InvalidCheckpoint, match="image_oldline"):
        checkpoint.read_weight("image_oldline")
