"""Commands at a service that runs: what they print and how they end is as in this process."""

import io
import json

import pytest

from pipeline.settings.server import find_server
from pipeline.values.errors import InvalidSettings

ASK = ("ask", "what is seen", "-s", "walk")
TIMED = ("timings",)


@pytest.fixture
def here(base, monkeypatch):
    """The commands' own process answers from the same store, by the same model."""
    for name, value in {
        "AOT_STORE__URL": base.store.url,
        "AOT_STORE__NAMESPACE": base.store.namespace,
        "AOT_MODEL__ID": base.model.id,
        "AOT_ASK__MAX_NEW_TOKENS": str(base.ask.max_new_tokens),
    }.items():
        monkeypatch.setenv(name, value)


def untimed(told):
    return {name: value for name, value in told.items() if name not in TIMED}


@pytest.mark.parametrize(
    "more",
    [
        ("--last", "6s"),
        ("-s", "other", "--from", "4", "--to", "8", "--max-visual-tokens", "90"),
        ("--fit", "recompress", "--max-visual-tokens", "40", "--max-new-tokens", "3"),
    ],
)
def test_an_answer_is_the_same_value(run, here, served, more):
    alone = run(*ASK, *more, "--json")
    asked = run(*ASK, *more, "--json", "--server", served.url)
    assert (asked.code, alone.code) == (0, 0)
    assert untimed(asked.json) == untimed(alone.json)
    assert asked.json["timings"].keys() == alone.json["timings"].keys()


def test_text_and_sources_are_the_same_for_people(run, here, served, monkeypatch):
    alone = run(*ASK, "--last", "6s")
    monkeypatch.setenv("AOT_SERVER", served.url)
    asked = run(*ASK, "--last", "6s")
    assert asked.out == alone.out
    assert asked.err.splitlines()[:-1] == alone.err.splitlines()[:-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", "what", "-s", "nobody"),
        ("ask", "what", "-s", "walk", "--from", "500", "--to", "600"),
        ("ask", "what", "-s", "walk", "--from", "teatime"),
        ("ask", "what", "-s", "walk", "--fit", "choose", "--max-visual-tokens", "1"),
        ("search", "what", "-s", "walk", "--from", "500", "--to", "600"),
        ("search", "what", "-s", "nobody"),
    ],
)
def test_errors_have_the_same_line_and_exit_code(run, here, served, arguments):
    alone = run(*arguments, "--json")
    asked = run(*arguments, "--json", "--server", served.url)
    assert alone.code in (1, 2, 3)
    assert (asked.code, asked.json, asked.err) == (alone.code, alone.json, alone.err)


def test_a_search_is_the_same(run, here, served):
    arguments = ("search", "what is seen", "-s", "walk", "-s", "other", "--top", "3", "--json")
    assert run(*arguments, "--server", served.url).json == run(*arguments).json


def test_a_conversation_goes_on_here_and_there(run, here, served, monkeypatch):
    said = "what is seen\n\nwhat was seen in the last 4 seconds\nand in year 9\n"
    told = []
    for more in ((), ("--server", served.url)):
        monkeypatch.setattr("sys.stdin", io.StringIO(said))
        told.append(run("chat", "-s", "walk", *more))
    assert told[0].code == told[1].code == 0
    assert told[0].out == told[1].out
    assert told[0].out.count("\n") == 3
    assert '("in the last 4 seconds")' in told[1].err


def test_a_question_that_fails_does_not_end_the_conversation(run, here, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("what in the first 3650 days\nwhat is seen\n"))
    ran = run("chat", "-s", "walk")
    assert ran.code == 0
    assert "error: QueryTooLarge" in ran.err
    assert ran.out.count("\n") == 1


def test_the_key_is_read_from_the_environment_or_a_file(run, keyed, monkeypatch, tmp_path):
    arguments = (*ASK, "--last", "2s", "--json", "--server", keyed.url)
    refused = run(*arguments)
    assert (refused.code, refused.json["error"]["code"]) == (1, "NotAllowed")
    (tmp_path / "key").write_text(keyed.keys["walk"] + "\n")
    monkeypatch.setenv("AOT_KEY_FILE", str(tmp_path / "key"))
    assert run(*arguments).code == 0
    monkeypatch.setenv("AOT_KEY", "aot_wrong")
    refused = run(*arguments)
    assert refused.code == 1
    assert "aot_wrong" not in refused.out + refused.err


@pytest.mark.parametrize("url", ["localhost:8400", "ftp://x", "http://", "http://me:pw@x"])
def test_what_is_no_server_is_told_without_its_password(monkeypatch, url):
    with pytest.raises(InvalidSettings) as caught:
        find_server(url)
    assert "pw" not in str(caught.value)


def test_nobody_there_is_told(run):
    ran = run(*ASK, "--server", "http://127.0.0.1:9", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (1, "ServiceUnreachable")
    assert "start it with `aot serve`" in ran.err


def test_a_server_has_its_own_model_and_store(run, served):
    for option in ("--model", "--store"):
        ran = run(*ASK, option, "memory://", "--server", served.url)
        assert ran.code == 2
        assert "the service has its own" in ran.err


def test_an_answer_of_something_else_is_no_answer(run, monkeypatch):
    import http.server
    import threading

    class Other(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        for command in ("ask", "search"):
            ran = run(command, "what", "-s", "walk", "--server", url, "--json")
            assert (ran.code, json.loads(ran.out)["error"]["code"]) == (1, "ServiceFailed")
        server.shutdown()
