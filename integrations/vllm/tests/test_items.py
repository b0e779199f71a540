"""Names of runs: what is named is what is read, and nothing else has a name."""

import pytest
import torch
from aot_vllm.items import NEWLINE, Item

PRINT = "0123456789abcdef" * 2


@pytest.mark.parametrize("seed", range(20))
def test_a_name_says_which_rows(seed):
    torch.manual_seed(seed)
    rows = (torch.rand(60) < 0.7).nonzero()[:, 0]
    rows = rows[torch.randperm(len(rows))] if seed % 2 else rows
    item = Item(
        PRINT,
        "cam.1_a-b",
        seed,
        41,
        (seed + 1) / 30,
        (*rows.tolist(), NEWLINE, 3, NEWLINE, NEWLINE),
    )
    assert Item.parse(str(item)) == item


def test_rows_in_a_row_are_written_as_one_stretch():
    assert (
        str(Item(PRINT, "cam", 0, 41, 1.0, (*range(38), NEWLINE))) == f"{PRINT}/cam/0/41@1.0:0-37,n"
    )


@pytest.mark.parametrize(
    "name",
    [
        "9f" * 32,
        f"{PRINT}/cam/0/41",
        f"{PRINT}/cam/0/41@1.0:",
        f"{PRINT}/cam/0/41@0-3",
        f"{PRINT}/cam/0/41@nan:0",
        f"{PRINT}/cam/0/41@9.0:0",
        f"{PRINT}/cam/0/41@1.0:5-2",
        f"{PRINT}/cam/0/41@1.0:0-4000000000",
        f"{PRINT}/../0/41@1.0:0",
        f"{PRINT}/a{{b}}/0/41@1.0:0",
        f"{PRINT}/cam/0/41@1.0:-1",
        f"{PRINT}/cam/0/41@1.0:0\n",
    ],
)
def test_what_is_no_name_is_none(name):
    item = Item.parse(name)
    assert item is None or item.stream_id == ".."  # a name; the store has no such stream


def test_rows_are_taken_with_the_newline_between():
    tokens, newline = torch.arange(8.0).reshape(4, 2).bfloat16(), torch.tensor([9.5, 9.25])
    taken = Item(PRINT, "cam", 0, 0, 1.0, (2, NEWLINE, 0)).take(tokens, newline)
    assert taken.dtype == torch.float32
    assert taken.tolist() == [[4, 5], [9.5, 9.25], [0, 1]]


@pytest.mark.parametrize(("rows", "newline"), [((0, 4), torch.zeros(2)), ((0, NEWLINE), None)])
def test_rows_that_are_not_there_are_an_error(rows, newline):
    with pytest.raises(IndexError):
        Item(PRINT, "cam", 0, 0, 1.0, rows).take(torch.zeros(4, 2), newline)
