"""No password comes out anywhere: a table of URLs as people mistype them, and every output read."""

import json
import logging

import pytest

from pipeline.settings import explain, load_settings
from pipeline.settings.logs import setup_logging
from pipeline.store.redis import RedisStore
from pipeline.values.errors import InvalidSettings
from pipeline.values.types import StreamInfo

CANARY = "hunter2"
STORES = ("redis", "unix", ":", "//", "admin")
URLS = [
    "rtsp://admin:hunter2@cam/live",
    "rtsp://admin:hunter2/ss@cam/live",
    "rtsp://admin:pa/hunter2@cam/live",
    "rtsp://admin:pa?hunter2@cam/live",
    "rtsp://admin:pa#hunter2@cam/live",
    "rtsp://admin:pa;hunter2@cam/live",
    "rtsp://admin:p@ss@hunter2@cam/live",
    "rtsp://:hunter2@cam",
    "rtsp://hunter2@cam/live",
    "rtsp:/admin:hunter2@cam/live",
    "rtsp:admin:hunter2@cam/live",
    "rtsp//admin:hunter2@cam/live",
    "rtps://admin:hunter2@cam/live",
    "admin:hunter2@cam/live",
    "//admin:hunter2@cam/live",
    ":hunter2@cam:554",
    "rtsp://admin:my hunter2@cam/live",
    "rtsp://admin:%68hunter2%2F@cam/live",
    "rtsp://cam:554/user=admin&password=hunter2&channel=1&stream=0.sdp",
    "http://cam/a.m3u8?token=hunter2",
    "http://cam/a.m3u8?fps=1&Signature=hunter2",
    "http://cam/a.m3u8?hunter2",
    "http://cam/a.m3u8;jsessionid=hunter2",
    "http://cam/a.m3u8#access_token=hunter2",
    "http://cam/a.m3u8#hunter2",
    "redis://:hunter2",
    "redis://:hunter2@h:notaport/0",
    "redis://:45/hunter2@h",
    "redis://u:123/hunter2@127.0.0.1:1/0",
    "redis://u:12#hunter2@127.0.0.1:1/0",
    "redis://:ab?hunter2@127.0.0.1:1/0",
    "redis:/:hunter2@h",
    "redis//:hunter2@h",
    "rediss:://:hunter2@h",
    "redis://[hunter2@h",
    "unix://:hunter2@/nowhere/redis.sock",
    "unix:///nowhere/redis.sock?password=hunter2",
    "embedded://u:hunter2@h/proc/nothing",
]


@pytest.fixture
def server(environment, opened, monkeypatch):
    """Everything that stands in the store of the test, as text."""

    def read() -> str:
        assert isinstance(opened, RedisStore)
        client, found = opened._client, []
        for key in client.scan_iter(f"{environment.namespace}:*"):
            kind = client.type(key).decode()
            value = {
                "hash": client.hgetall,
                "set": client.smembers,
                "zset": lambda key: client.zrange(key, 0, -1),
                "string": client.get,
            }[kind](key)
            found.append(f"{key!r} {value!r}")
        return "\n".join(found)

    return read


@pytest.mark.parametrize("url", URLS)
def test_a_source_shows_no_password_in_any_output_nor_in_the_store(
    run, url, server, opened, caplog
):
    """Refused when it is to be ingested; and of a stream that was begun with it."""
    said = f"SourceRefused: {url}: got it"
    opened.put_info(StreamInfo("cam2", url, "m", "", status="failed", error=said))
    outputs = []
    for command in (
        ("ingest", url, "--stream", "cam1"),
        ("ingest", url, "--json", "--stream", "cam1"),
        ("ingest", url),
        ("streams",),
        ("streams", "--json"),
        ("streams", "show", "cam2"),
        ("streams", "show", "cam2", "--json"),
    ):
        ran = run(*command)
        outputs += [ran.out, ran.err]
    assert "cam2" in server()
    for text in (*outputs, caplog.text, server()):
        assert CANARY not in text
        assert "InternalError" not in text


@pytest.mark.parametrize("url", [url for url in URLS if url.startswith(STORES)])
def test_a_store_shows_no_password_in_any_output(run, url, monkeypatch, caplog):
    outputs = []
    for command in (("--store", url, "streams", "--json"), ("streams", "--store", url)):
        ran = run(*command)
        assert ran.code in (1, 2), ran.err
        outputs += [ran.out, ran.err]
    monkeypatch.setenv("AOT_STORE__URL", url)
    for command in (("config",), ("config", "--json"), ("doctor", "--json"), ("streams",)):
        ran = run(*command)
        outputs += [ran.out, ran.err]
    for text in (*outputs, caplog.text):
        assert CANARY not in text
        assert "InternalError" not in text


@pytest.mark.parametrize("url", URLS)
def test_settings_show_no_password(url, environment):
    try:
        settings = load_settings(None, {"store": {"url": url}})
    except InvalidSettings as error:
        shown = str(error)
    else:
        shown = repr(settings) + str(settings) + repr(settings.store_config())
        shown += repr(list(explain(None, {"store": {"url": url}})))
    assert CANARY not in shown


@pytest.mark.parametrize("form", ["text", "json"])
def test_logs_show_no_password(form, capsys):
    setup_logging("info", form)
    logging.getLogger("pipeline.test").warning("at %s", URLS[1], extra={"stream_id": "cam1"})
    try:
        raise ValueError(URLS[1])
    except ValueError:
        logging.getLogger("pipeline.test").exception("failed")
    err = capsys.readouterr().err
    assert "rtsp://cam/live" in err
    assert CANARY not in err


@pytest.mark.parametrize("way", ["environment", "file"])
def test_a_password_apart_from_the_url_reaches_the_store_and_is_not_shown(
    way, environment, monkeypatch, tmp_path, run
):
    monkeypatch.setenv("AOT_STORE__URL", "redis://me@h:6379/1")
    if way == "environment":
        monkeypatch.setenv("AOT_STORE__PASSWORD", "hunter2/@#")
    else:
        path = tmp_path / "password"
        path.write_text("hunter2/@#\n")
        monkeypatch.setenv("AOT_STORE__PASSWORD_FILE", str(path))
    settings = load_settings()
    url, apart = settings.store_config().url, settings.store_config().password_file
    if way == "environment":
        assert (url, apart) == ("redis://me:hunter2%2F%40%23@h:6379/1", None)
    else:
        assert (url, apart) == ("redis://me@h:6379/1", str(path))
    assert CANARY not in repr(settings)
    for command in (("config",), ("config", "--json")):
        ran = run(*command)
        assert ran.code == 0
        assert CANARY not in ran.out + ran.err
    assert run("config", "--json").json["store.url"]["value"] == "redis://h:6379/1"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"password": "hunter2"}, "take a password"),
        ({"password": "hunter2", "password_file": "x", "url": "redis://h"}, "one of them"),
        ({"password": "hunter2", "url": "redis://u:old@h"}, "take one of them out"),
        ({"password": ["hunter2"], "url": "redis://h"}, "password"),
        ({"password_file": "/nowhere/p", "url": "redis://h"}, "cannot be read"),
        ({"url": ["redis://:hunter2@h"]}, r"store\.url"),
        ({"pasword": "hunter2"}, "did you mean store.password"),
    ],
)
def test_a_password_that_cannot_be_is_refused_without_being_told(values, said, environment):
    given = {"url": "embedded:///nowhere", **values}
    with pytest.raises(InvalidSettings, match=said) as caught:
        load_settings(None, {"store": given}).store_config()
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "store: {password: *hunter2}",
        "store: {password: hunter2, password: hunter2}",
        "store: {url: 'redis://:hunter2",
        "store:\n  url: redis://:hunter2@h\n   namespace: x",
        "[hunter2]",
        "hunter2",
        "hunter2: 1",
    ],
)
def test_a_file_that_does_not_read_shows_none_of_its_values(run, tmp_path, text):
    path = tmp_path / "aot.yaml"
    path.write_text(text)
    ran = run("config", "-c", path)
    assert ran.code == 2
    if text != "hunter2: 1":  # a key is a name, and named
        assert CANARY not in ran.err


def test_json_lines_name_the_stream(capsys):
    setup_logging("warning", "json")
    logging.getLogger("workers.session").warning("clip failed", extra={"stream_id": "lobby"})
    logging.getLogger("workers.session").info("unheard")
    [line] = capsys.readouterr().err.splitlines()
    fields = json.loads(line)
    assert (fields["level"], fields["stream_id"], fields["message"]) == (
        "warning",
        "lobby",
        "clip failed",
    )
    setup_logging()
