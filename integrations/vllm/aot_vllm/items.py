"""The name of a run of visual tokens: a stored record, and which of its rows.

    3f..9c/cam1/0/41@1.0:0-37,n         rows 0 to 37, then the newline
    3f..9c/cam1/0/41@1.0:5,9-12,n       what is left of them within the asked range
    3f..9c/cam1/0/41@0.02:0-3,n         of the clip as it was faded to a fiftieth

vLLM's prefix cache is keyed by it, so that it says all that decides the rows: the fingerprint
stands for the model, the reduction and the stored dtype, place and level for the record.
"""

import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from workers.models import VisualSegment
from workers.models.prompt import PromptWriter
from workers.models.runs import interleave
from workers.names import STREAM_ID

NEWLINE = -1
SPAN = r"(?:\d+(?:-\d+)?|n)"
KEEP = r"\d(?:\.\d{1,20})?(?:e-\d{1,2})?"
PLACE = rf"([0-9a-f]{{32}})/({STREAM_ID.pattern})/(\d+)/(\d+)"
NAME = re.compile(rf"{PLACE}@({KEEP}):({SPAN}(?:,{SPAN})*)")
MAX_ROWS = 1 << 20
"""Of one run: a name must not make its reader fill the memory."""


@dataclass(frozen=True)
class Item:
    """A run as it is named."""

    fingerprint: str
    stream_id: str
    epoch: int
    index: int
    keep: float
    """What the clip was faded to, 1 where it was not."""
    rows: tuple[int, ...]
    """Of the record, in order; `NEWLINE` is the model's learned newline."""

    @classmethod
    def of(cls, segment: VisualSegment, writer: PromptWriter) -> "Item | None":
        """What is read of a segment; None where its tokens are no stored ones."""
        if segment.stored is None:
            return None
        before = writer.runs.newlines(segment)
        rows = interleave(segment.stored.rows, torch.full_like(before, NEWLINE), before)
        whole = cls.parse(f"{segment.stored.record}:0")
        return whole and replace(whole, rows=tuple(rows.tolist()))

    @classmethod
    def parse(cls, name: str) -> "Item | None":
        """The run of that name; None for what is no name of a run, such as a picture's hash."""
        match = NAME.fullmatch(name)
        if match is None or not 0 < float(match[5]) <= 1:
            return None
        *place, keep, spans = match.groups()
        rows: list[int] = []
        for span in spans.split(","):
            first, _, last = span.partition("-")
            if first == "n":
                rows.append(NEWLINE)
                continue
            stop = int(last or first) + 1
            if not 0 < stop - int(first) <= MAX_ROWS - len(rows):
                return None
            rows += range(int(first), stop)
        return cls(place[0], place[1], int(place[2]), int(place[3]), float(keep), tuple(rows))

    def __str__(self) -> str:
        """Its name."""
        spans: list[list[int]] = []
        for row in self.rows:
            if spans and NEWLINE != spans[-1][-1] == row - 1:
                spans[-1][1:] = [row]
            else:
                spans.append([row])
        written = ("n" if span == [NEWLINE] else "-".join(map(str, span)) for span in spans)
        place = f"{self.fingerprint}/{self.stream_id}/{self.epoch}/{self.index}"
        return f"{place}@{self.keep!r}:{','.join(written)}"

    def take(self, tokens: Tensor, newline: Tensor | None) -> Tensor:
        """Its rows, `[r d]`, of the record's tokens `[m d]`.

        Raises:
            IndexError: it names rows that the record has not, or a newline where there is none.
        """
        rows = torch.tensor(self.rows)
        if max(self.rows) >= len(tokens) or (newline is None and NEWLINE in self.rows):
            raise IndexError(f"row {max(self.rows)}, newlines or not, of {len(tokens)} rows")
        if newline is None:
            return tokens[rows]
        taken = tokens[rows.clamp(min=0)].to(torch.promote_types(tokens.dtype, newline.dtype))
        taken[rows == NEWLINE] = newline.to(taken)
        return taken
