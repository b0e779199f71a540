"""The exported checkpoint is what the family's loaders expect, small, and read back unchanged."""

from dataclasses import replace

import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from demo.miniature.model import CELLS, build_model, load_model
from demo.miniature.tokenizer import build_tokenizer
from demo.world.questions import format_mark
from workers.models import ReadingStyle, open_language_model, open_vision_encoder
from workers.models.relevance import write_relevance


def test_checkpoint_is_small_and_loads_with_the_auto_classes(untrained):
    assert sum(path.stat().st_size for path in untrained.iterdir()) < 12e6
    model = AutoModelForImageTextToText.from_pretrained(untrained, local_files_only=True)
    assert type(model).__name__ == "LlavaOnevisionForConditionalGeneration"
    assert AutoTokenizer.from_pretrained(untrained).eos_token == "<|end|>"


def test_weights_survive_the_export_to_bfloat16(untrained):
    expected = build_model(seed=1).state_dict()
    for name, value in load_model(untrained).state_dict().items():
        assert torch.equal(value, expected[name].bfloat16().float()), name


def test_the_product_opens_both_halves(untrained):
    encoder = open_vision_encoder(untrained)
    assert encoder.grid == (2 * CELLS, 2 * CELLS)
    assert encoder.attention_layers == (1, 3)
    assert open_language_model(untrained).dim == encoder.dim


def test_the_product_reads_clips_to_it_as_in_training(untrained):
    reading = open_language_model(untrained).reading
    style = ReadingStyle("frame", keep_positions=True, name_streams=False)
    assert replace(reading, relevance=()) == style


def test_the_product_asks_it_what_matters_in_questions_it_knows(untrained):
    rules = open_language_model(untrained).reading.relevance
    asked = write_relevance("when did the red cross come ?", rules)
    assert (asked.text, asked.expects_yes) == ("was there a red cross ?", True)
    assert write_relevance("what was on slide K ?", rules).text == "was slide K shown ?"
    coloured = write_relevance("what colour was the cross ?", rules)
    assert coloured.about("red") == "was there a red cross ?"
    assert write_relevance("what shape was the red object ?", rules).about(
        "cross"
    ) == coloured.about("red")


def test_a_time_mark_is_three_words_in_brackets_or_not():
    tokenizer = build_tokenizer()
    mark = format_mark(3600 + 62)
    assert mark == "01:01:02"
    assert tokenizer(f"[{mark}]").input_ids == tokenizer(mark).input_ids
    assert tokenizer.convert_ids_to_tokens(tokenizer(mark).input_ids) == ["01", ":01", ":02"]


def test_text_comes_back_readable():
    tokenizer = build_tokenizer()
    ids = tokenizer("<|user|> was there a red circle ? <|assistant|> 01:01:02 <|end|>").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "was there a red circle? 01:01:02"


def test_people_s_spelling_is_understood():
    tokenizer = build_tokenizer()
    typed = tokenizer("Was there an orange circle?").input_ids
    assert typed == tokenizer("was there a orange circle ?").input_ids
    assert tokenizer.convert_ids_to_tokens(tokenizer("Was slide A shown?").input_ids)[2] == "A"
