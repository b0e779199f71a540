from tests.checkpoints import write_tiny_checkpoint


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    first = write_tiny_checkpoint(tmp_path / "first", seed=3)
    second = write_tiny_checkpoint(tmp_path / "second", seed=3)

    for file in sorted(first.iterdir()):
        assert file.read_bytes() == (second / file.name).read_bytes(), file.name


def test_another_seed_writes_other_weights(tmp_path):
    first = write_tiny_checkpoint(tmp_path / "first", seed=3)
    second = write_tiny_checkpoint(tmp_path / "second", seed=4)

    name = "model.safetensors"
    assert (first / name).read_bytes() != (second / name).read_bytes()
