"""Who may ask what: every route of the OpenAPI document by every wrong key."""

import json
import stat

import pytest

from pipeline.serve.keys import KeyBook
from pipeline.values.errors import InvalidQuery, InvalidSettings, UnknownKey
from tests.pipeline.serve.conftest import with_serve

OPEN = {"/v1/health/live", "/v1/health/ready"}
QUESTIONS = ("/v1/ask", "/v1/search", "/v1/chat/completions")
VALUES = {"{stream_id}": "other", "{key}": "0-0", "{model}": "tiny", "{watch_id}": "w1"}
BODIES = {
    "/v1/streams/{stream_id}/watches": {"watch_id": "w1", "question": "is it open"},
    "/v1/streams": {"stream_id": "other", "url": "/nowhere.mp4"},
    "/v1/ask": {"question": "what is seen", "streams": ["other"]},
    "/v1/search": {"question": "what is seen", "streams": ["other"]},
    "/v1/chat/completions": {
        "model": "aot",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "video_url", "video_url": {"url": "stream://other"}},
                    {"type": "text", "text": "what is seen"},
                ],
            }
        ],
    },
}


@pytest.fixture(scope="module")
def routes(keyed):
    """(method, path, its template) of all that the service says it has."""
    with keyed.client("read") as client:
        document = client.get("/openapi.json").json()
    found = []
    for template, methods in document["paths"].items():
        path = template
        for name, value in VALUES.items():
            path = path.replace(name, value)
        assert "{" not in path, f"no value for {template}"
        found += [(method.upper(), path, template) for method in methods if template not in OPEN]
    assert {*BODIES} <= {template for _, _, template in found}
    return found


def call(client, method, path, template):
    return client.request(method, path, json=BODIES.get(template))


@pytest.mark.parametrize("key", [None, "aot_00000000_wrong", "nonsense", "aot_Ω_Ω"])
def test_without_a_key_every_route_says_the_same(keyed, routes, key):
    headers = {} if key is None else {"Authorization": f"Bearer {key}".encode()}
    with keyed.client() as client:
        client.headers.update(headers)
        told = {
            (answer.status_code, answer.text)
            for method, path, template in routes
            for answer in [call(client, method, path, template)]
        }
    [(status, text)] = told
    assert status == 401
    assert "aot_0" not in text


def test_a_key_of_another_stream_finds_it_as_little_as_one_that_is_not_there(keyed, routes):
    with keyed.client("walk") as client:
        for method, path, template in routes:
            answer = call(client, method, path, template)
            if "{stream_id}" not in template:
                continue
            there = path.replace("/other", "/ghost")
            absent = call(client, method, there, template)
            assert answer.status_code == absent.status_code == 404, (method, path)
            assert answer.text.replace("other", "ghost") == absent.text
        for route in QUESTIONS:
            assert call(client, "POST", route, route).status_code == 404
        assert call(client, "POST", "/v1/streams", "/v1/streams").status_code == 403
        assert client.get("/metrics").status_code == 403
        names = [view["stream_id"] for view in client.get("/v1/streams").json()["streams"]]
        assert names == ["walk"]


def test_a_key_that_reads_changes_nothing(keyed, routes):
    with keyed.client("read") as client:
        for method, path, template in routes:
            answer = call(client, method, path, template)
            changes = method in ("POST", "DELETE") and template not in QUESTIONS
            assert (answer.status_code == 403) is changes, (method, path, answer.text)


def test_a_key_that_was_taken_back_is_refused_at_once(keyed):
    text, key = keyed.service.keys.add("read")
    with keyed.client(text) as client:
        assert client.get("/v1/streams").status_code == 200
        keyed.service.keys.remove(key.key_id)
        assert client.get("/v1/streams").status_code == 401


def test_what_is_kept_of_a_key_is_a_digest_for_the_owners_eyes(tmp_path):
    book = KeyBook(tmp_path / "deep" / "keys.json")
    text, key = book.add("ingest", ["cam", "cam"], "Ann")
    path = tmp_path / "deep" / "keys.json"
    assert text not in path.read_text()
    assert text.split("_", 2)[2] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KeyBook(path).find(text) == key
    assert key.streams == ("cam",)
    assert (key.allows("read"), key.allows("ingest"), key.allows("admin")) == (True, True, False)
    assert book.find(text[:-1]) is None


def test_what_cannot_be_a_key_is_told(tmp_path):
    book = KeyBook(tmp_path / "keys.json")
    with pytest.raises(InvalidQuery, match="scope"):
        book.add("root")
    with pytest.raises(UnknownKey):
        book.remove("00000000")
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [{"key_id": "x"}]}))
    with pytest.raises(InvalidSettings, match="no file of keys"):
        book.list_keys()


def test_beyond_this_machine_a_service_needs_keys(base):
    from pipeline.serve.service import Service

    with pytest.raises(InvalidSettings, match="no keys"):
        Service(with_serve(base, host="0.0.0.0"))


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8400", "192.168.0.9", ""])
def test_a_page_of_another_site_cannot_ask_through_a_browser(served, host):
    with served.client() as client:
        assert client.get("/v1/streams", headers={"Host": host}).status_code in (400, 403)


def test_keys_are_made_and_taken_back_by_a_command(run, tmp_path, monkeypatch):
    monkeypatch.setenv("AOT_SERVE__KEYS_FILE", str(tmp_path / "keys.json"))
    made = run("keys", "add", "--scope", "ingest", "-s", "cam", "--json").json
    assert KeyBook(tmp_path / "keys.json").find(made["key"]).scope == "ingest"
    listed = run("keys", "ls", "--json")
    assert listed.json["keys"][0]["streams"] == ["cam"]
    assert "digest" not in listed.out
    assert run("keys", "rm", made["key_id"]).code == 0
    assert run("keys", "rm", made["key_id"]).code == 1
