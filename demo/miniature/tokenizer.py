"""The word-level tokenizer of the miniature: one word, one id; times are a number and `:SS`.

`01:12:07` is three ids, `01`, `:12` and `:07`. Words outside the list become `<unk>`:
the miniature knows its questions and no other language.
"""

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from demo.world.scenes import COLOURS, DIRECTIONS, LETTERS, SHAPES

SPECIAL = ("<pad>", "<unk>", "<|user|>", "<|assistant|>", "<|end|>", "<image>", "<video>")
_WORDS = [
    "a",
    "after",
    "and",
    "answer",
    "at",
    "before",
    "came",
    "camera",
    "colour",
    "colours",
    "come",
    "did",
    "direction",
    "first",
    "frame",
    "from",
    "go",
    "had",
    "how",
    "in",
    "is",
    "it",
    "last",
    "many",
    "moving",
    "next",
    "no",
    "none",
    "object",
    "objects",
    "of",
    "on",
    "one",
    "or",
    "scene",
    "second",
    "see",
    "seen",
    "shape",
    "show",
    "shown",
    "slide",
    "slides",
    "stay",
    "that",
    "the",
    "there",
    "time",
    "to",
    "two",
    "video",
    "was",
    "way",
    "were",
    "what",
    "when",
    "where",
    "which",
    "with",
    "yes",
    ".",
    ",",
    "?",
    "!",
]

_SPELLINGS = (
    *(
        (f"\\b{word.capitalize()}\\b", word)
        for word in ("was", "which", "what", "how", "when", "did", "on")
    ),
    ("\\ban\\b", "a"),
    ("\\bcolor", "colour"),
)
"""Written by people, meant by the vocabulary; single capitals stay, they name slides."""

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}{{ '<|assistant|> ' }}"
    "{%- else -%}{{ '<|user|> ' }}{%- endif -%}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'video' -%}{{ '<video> ' }}"
    "{%- elif part['type'] == 'image' -%}{{ '<image> ' }}"
    "{%- elif part['type'] == 'text' -%}{{ part['text'] + ' ' }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- if message['role'] == 'assistant' -%}{{ ' <|end|> ' }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)


def list_vocabulary() -> list[str]:
    """Every word, in the order of its id."""
    numbers = [f"{n:02d}" for n in range(100)] + [f":{n:02d}" for n in range(60)]
    digits = [str(n) for n in range(10)]
    named = [*COLOURS, *SHAPES, *LETTERS, *DIRECTIONS]
    return list(dict.fromkeys([*SPECIAL, *named, *digits, *numbers, *_WORDS]))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer with its chat template, ready to be saved beside the weights."""
    vocabulary = {word: index for index, word in enumerate(list_vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    # What the pattern leaves out (brackets of a mark, line ends) is dropped, not unknown.
    words = Regex(r":\d\d|\d\d|\d|[A-Za-z]+|[.,?!]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(words, "removed", invert=True)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(spelt), meant) for spelt, meant in _SPELLINGS]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(Regex("^(?=[^:?.,!])"), " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|end|>",
        additional_special_tokens=[s for s in SPECIAL if s not in ("<pad>", "<unk>", "<|end|>")],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
