"""Parcels: what is packed comes out, whatever its dtype and shape."""

import numpy as np
import torch

from workers.compress.accelerator.parcel import pack, pack_on_host


def columns():
    return {
        "flag": torch.tensor([True, False, True]),
        "half": torch.randn(3, 5).bfloat16(),
        "count": torch.arange(3),
        "empty": torch.empty(3, 0, 7),
        "across": torch.randn(4, 3).T,
        "one": torch.tensor([7], dtype=torch.uint8),
    }


def test_columns_come_out_as_they_went_in():
    parcel = pack(columns())
    assert parcel.data.dtype == torch.uint8
    for name, expected in columns().items():
        got = parcel.columns[name]
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    again = parcel.moved(parcel.data.clone()).columns
    assert torch.equal(again["half"], parcel.columns["half"])
    assert again["flag"].tolist() == [True, False, True]
    assert again["count"].tolist() == [0, 1, 2]


def test_parts_of_a_column_follow_one_another():
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    pixels.flags.writeable = False
    state = torch.randn(1, 5).bfloat16()
    given = {"pixels": [pixels[:1], pixels[1:]], "state": [state, state + 1], "n": [np.ones(2)]}
    got = pack_on_host(given).columns
    assert torch.equal(got["pixels"], torch.arange(24, dtype=torch.uint8).view(4, 2, 3))
    assert torch.equal(got["state"], torch.cat([state, state + 1]))
    assert got["n"].tolist() == [1.0, 1.0]


def test_a_parcel_needs_no_values():
    parcel = pack({name: value.to("meta") for name, value in columns().items()})
    assert parcel.columns["half"].shape == (3, 5)
