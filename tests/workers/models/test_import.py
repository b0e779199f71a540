"""What importing the models needs and costs."""

import subprocess
import sys

from workers.models import FAMILIES

ABSENT = ["ray", "av", "redis", "pyarrow"]


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=200, capture_output=True, text=True
    )
    return done.stdout


def test_models_import_without_cluster_decoder_and_store():
    code = (
        f"import importlib, sys; sys.modules.update(dict.fromkeys({ABSENT})); "
        "from workers.models import FAMILIES; "
        "print(*(importlib.import_module(name).__name__ for name in FAMILIES.values())); "
        f"print(*(name for name in {ABSENT} if sys.modules[name] is None))"
    )

    families, hidden = run(code).splitlines()

    assert families.split() == list(FAMILIES.values())
    assert hidden.split() == ABSENT


def test_transformers_waits_until_a_checkpoint_is_opened():
    code = "import sys, workers.models; print('transformers' in sys.modules)"

    assert run(code).strip() == "False"


def test_every_public_name_is_there():
    import workers.models

    assert sorted(workers.models.__all__) == workers.models.__all__
    assert all(hasattr(workers.models, name) for name in workers.models.__all__)
