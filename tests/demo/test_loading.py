"""Work done ahead: the same results in the same order, errors handed on, nothing hanging."""

import os

import pytest
import torch

from demo.training.loading import map_ahead, send


def test_results_come_in_order_and_from_other_processes():
    drawn = list(map_ahead(lambda n: (n * n, os.getpid()), range(3, 12), 2))
    assert [(n, square) for n, (square, _) in drawn] == [(n, n * n) for n in range(3, 12)]
    processes = {process for _, (_, process) in drawn}
    assert len(processes) == 2
    assert os.getpid() not in processes


def test_without_processes_each_is_drawn_when_it_is_asked_for():
    asked = []
    results = map_ahead(lambda n: asked.append(n) or n, range(4), 0)
    assert next(results) == (0, 0)
    assert asked == [0]


def test_what_is_shared_is_seen_by_the_processes():
    shared = torch.zeros(1).share_memory_()
    results = map_ahead(lambda _: float(shared), range(12), 1)
    assert next(results) == (0, 0.0)
    shared += 1
    assert list(results)[-1] == (11, 1.0)


def test_an_error_of_a_process_is_raised_here():
    with pytest.raises(ZeroDivisionError):
        list(map_ahead(lambda n: 1 // n, range(2), 1))


def test_a_killed_process_is_noticed():
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        list(map_ahead(lambda _: os.kill(os.getpid(), 9), range(2), 1))


def test_every_tensor_is_sent_and_nothing_else_touched():
    value = (torch.ones(1), {"a": torch.ones(2), "b": ["x"]}, 3)
    first, table, number = send(value, torch.device("meta"))
    assert first.is_meta
    assert table["a"].is_meta
    assert (table["b"], number) == (["x"], 3)
