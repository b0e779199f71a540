"""Where settings come from, which wins, and what is said about those that cannot be."""

from pathlib import Path

import pytest

from pipeline.settings import explain, load_settings, unknown_variables
from pipeline.values.errors import InvalidSettings

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    import os

    for name in [name for name in os.environ if name.upper().startswith("AOT_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def written(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "aot.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_without_anything_the_defaults_hold():
    settings = load_settings()
    assert (settings.ingest.fps, settings.ingest.retention, settings.store.dtype) == (
        1.0,
        0.1,
        "bf16",
    )


def test_a_file_wins_over_defaults_variables_over_it_and_given_values_over_all(
    written, monkeypatch
):
    path = written("ingest: {fps: 2, retention: 0.2, clip_frames: 16}")
    monkeypatch.setenv("AOT_INGEST__FPS", "3")
    monkeypatch.setenv("AOT_INGEST__RETENTION", "0.3")
    ingest = load_settings(path, {"ingest": {"fps": 4.0}}).ingest
    assert (ingest.fps, ingest.retention, ingest.clip_frames) == (4.0, 0.3, 16)


def test_none_in_given_values_means_not_given(written):
    settings = load_settings(written("ingest: {fps: 2}"), {"ingest": {"fps": None}})
    assert settings.ingest.fps == 2


@pytest.mark.parametrize("origin", ["file", "environment"])
def test_null_for_the_rate_keeps_every_frame(written, monkeypatch, origin):
    path = written("ingest: {fps: null}") if origin == "file" else None
    if origin == "environment":
        monkeypatch.setenv("AOT_INGEST__FPS", "null")
    assert load_settings(path).ingest.fps is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ingest: {fpps: 2}", r"ingest\.fpps \(from .*aot\.yaml\): no such setting; see `aot con"),
        ("stor: {url: x}", r"stor \(from .*aot\.yaml\): no such setting"),
        ("ingest: {fps: fast}", r"ingest\.fps \(from .*aot\.yaml\): .*number.*, got 'fast'"),
        ("ingest: {retention: 2}", r"ingest\.retention .*less than or equal to 1, got 2"),
        ("ray: {workers: 0}", r"ray\.workers .*greater than or equal to 1, got 0"),
        ("store: {dtype: fp4}", r"store\.dtype .*'bf16' or 'int8', got 'fp4'"),
        (
            "streams: [{name: a, url: 'rtsp://x', fsp: 2}]",
            r"streams\.0\.fsp \(from .*aot\.yaml\): no such .* did you mean streams\.0\.fps\?",
        ),
        (
            "streams: [{name: a, url: 'rtsp://x'}, {name: b, url: 'rtsp://y', fps: no}]",
            r"streams\.1\.fps \(from .*aot\.yaml\): ",
        ),
        ("[1, 2]", "not a YAML mapping"),
        ("a: [", "not a YAML mapping"),
        ("ingest: {fps: 1, fps: 2}", r"key fps stands there twice; take one out \(line 1\)"),
        ("ask:\n  marks: clip\nask:\n  marks: frame\n", r"key ask stands .* \(line 3\)"),
        ("ingest: {zone: Mars/Base}", r"ingest\.zone .*Europe/Berlin"),
        ("ingest: {reducer: magic}", r"ingest\.reducer: no reducer 'magic'; choose one of"),
        ("ingest: {constants: {windw: 7}}", r"ingest\.constants: .*windw.*window"),
    ],
)
def test_a_wrong_file_is_named_with_key_and_cause(written, text, said):
    with pytest.raises(InvalidSettings, match=said) as caught:
        load_settings(written(text))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(InvalidSettings, match="no settings file"):
        load_settings(tmp_path / "none.yaml")


def test_an_empty_file_changes_nothing(written):
    assert load_settings(written("")) == load_settings()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AOT_INGEST__FPS", "fast", r"ingest\.fps \(from environment\)"),
        ("AOT_INGEST__FPPS", "2", r"ingest\.fpps \(from environment\): no such setting"),
        ("AOT_INGEST", "nonsense", "environment: .*ingest.*; AOT_GROUP__NAME"),
        ("AOT_INGEST__CONSTANTS", "{", r"environment|constants"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings, match=said):
        load_settings()


def test_a_given_value_that_cannot_be_names_the_command_line():
    with pytest.raises(InvalidSettings, match=r"ingest\.fps \(from command line\)"):
        load_settings(None, {"ingest": {"fps": -1.0}})


def test_no_error_shows_what_an_unknown_key_holds(written):
    with pytest.raises(InvalidSettings) as caught:
        load_settings(written("store: {password: hunter2}"))
    assert "hunter2" not in str(caught.value)


def test_constants_are_one_value_and_reach_the_compressor(written):
    settings = load_settings(written("ingest: {constants: {window: 7, epsilon: 0.2}}"))
    assert settings.compress_settings().constants == {"window": 7, "epsilon": 0.2}


def test_every_setting_is_explained_with_where_it_came_from(written, monkeypatch):
    path = written("ingest: {retention: 0.2, constants: {window: 7}}")
    monkeypatch.setenv("AOT_STORE__DTYPE", "int8")
    rows = {name: (value, origin) for name, value, origin in explain(path, {"ray": {"workers": 3}})}
    assert rows["ingest.retention"] == (0.2, path)
    assert rows["ingest.constants"] == ({"window": 7}, path)
    assert rows["store.dtype"] == ("int8", "environment")
    assert rows["ray.workers"] == (3, "command line")
    assert rows["ingest.fps"] == (1.0, "default")
    assert len(rows) == len({name.split(".")[0] + name for name in rows}) > 20


def test_misspelt_variables_are_found_and_right_ones_are_not(monkeypatch):
    monkeypatch.setenv("AOT_INGEST__FPS", "2")
    monkeypatch.setenv("AOT_INGESST__FPS", "2")
    monkeypatch.setenv("AOT_FPS", "2")
    assert unknown_variables() == ["AOT_FPS", "AOT_INGESST__FPS"]


def test_ray_settings_reach_sessions_and_workers(written):
    text = """
        ray:
          address: head:6379
          session_cpus: 2
          session_resources: {decoding: 1}
          session_restarts: 3
          connect_timeout_s: 4
          object_store_bytes: 100000000
          worker_resources: {vision: 0.5}
          ready_timeout_s: 7
          result_timeout_s: 8
    """
    settings = load_settings(written(text))
    cluster, pool = settings.cluster_settings(), settings.pool_settings()
    assert (cluster.address, cluster.session_cpus, cluster.session_restarts) == ("head:6379", 2, 3)
    assert (cluster.session_resources, cluster.connect_timeout_s) == ({"decoding": 1.0}, 4)
    assert cluster.object_store_bytes == 100_000_000
    assert (pool.worker_resources, pool.ready_timeout_s) == ({"vision": 0.5}, 7)
    assert pool.result_timeout_s == 8


def test_settings_cannot_be_changed():
    with pytest.raises(Exception, match="frozen"):
        load_settings().ingest.fps = 3.0


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_the_settings_files_that_come_along_load(path):
    assert load_settings(path).model_fields_set


def test_there_are_settings_files():
    assert {"default.yaml", "surveillance.yaml", "lecture.yaml"} <= {
        path.name for path in CONFIGS.iterdir()
    }


def test_how_clips_are_read_is_left_to_the_checkpoint_unless_it_is_set(monkeypatch):
    ask = load_settings(CONFIGS / "miniature.yaml").ask
    assert (ask.marks, ask.keep_positions) == (None, None)
    monkeypatch.setenv("AOT_ASK__MARKS", "frame")
    monkeypatch.setenv("AOT_ASK__KEEP_POSITIONS", "false")
    ask = load_settings(CONFIGS / "miniature.yaml").ask
    assert (ask.marks, ask.keep_positions) == ("frame", False)
