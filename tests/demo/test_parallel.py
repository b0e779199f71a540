"""Several training workers: real processes, averaged gradients, one decision to stop."""

import subprocess
import sys

import torch

from demo.training.parallel import any_worker, average_gradients, find_share

WORK = """
import torch
from demo.training.parallel import any_worker, average_gradients, find_share, joined
with joined():
    worker, workers = find_share()
    one, other = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    one.grad = torch.full((2,), float(worker))
    average_gradients([one, other])
    assert workers == 2
    assert one.grad.tolist() == [0.5, 0.5]
    assert other.grad.tolist() == [0.0, 0.0]
    assert any_worker(worker == 1)
    assert not any_worker(False)
    print("agreed", flush=True)
"""


def test_two_workers_average_their_gradients_and_stop_together(tmp_path):
    script = tmp_path / "work.py"
    script.write_text(WORK)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    done = subprocess.run(
        [*command, "2", str(script)], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("agreed") == 2


def test_one_worker_has_all_of_it_and_nothing_to_average():
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.ones(1)
    average_gradients([parameter])
    assert parameter.grad.item() == 1
    assert find_share() == (0, 1)
    assert any_worker(True)
    assert not any_worker(False)
