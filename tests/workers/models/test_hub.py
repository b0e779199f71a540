"""A hub id against a small hub on this machine: what is fetched, what never is."""

import http.server
import json
import threading

import huggingface_hub
import pytest

from tests.checkpoints import random_frames, write_tiny_checkpoint
from workers.errors import ModelNotFound, UnsafeWeights
from workers.models import open_vision_encoder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Serves the folder of each repository name; `requests` lists what was asked."""
    repositories, requests = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self, with_body=True):
            requests.append(self.path)
            _, *parts = self.path.split("?")[0].split("/")
            if parts[:2] == ["api", "models"]:
                body = self._info("/".join(parts[2:4]))
            else:
                body = self._file("/".join(parts[:2]), parts[-1])
            self.send_response(404 if body is None else 200)
            if body is None:
                self.send_header("X-Error-Code", "RepoNotFound")
                body = b""
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{len(body):040x}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def do_HEAD(self):
            self.do_GET(with_body=False)

        def _info(self, name):
            if name not in repositories:
                return None
            files = [{"rfilename": path.name} for path in repositories[name].iterdir()]
            return json.dumps({"id": name, "sha": COMMIT, "siblings": files}).encode()

        def _file(self, name, file):
            return (repositories[name] / file).read_bytes()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.repositories, server.requests = repositories, requests
    url = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_a_hub_id_is_fetched_at_its_commit(hub, tmp_path):
    hub.repositories["somebody/tiny"] = write_tiny_checkpoint(tmp_path / "tiny")

    encoder = open_vision_encoder("somebody/tiny", revision="main")

    assert encoder.encode(random_frames(1)).tokens.shape == (1, 196, 64)
    assert encoder.identity.revision == COMMIT


def test_pickle_and_code_are_never_fetched(hub, tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "tiny")
    for name in ("pytorch_model.bin", "modeling_evil.py", "training_args.pt"):
        (folder / name).write_bytes(b"evil")
    hub.repositories["somebody/tiny"] = folder

    open_vision_encoder("somebody/tiny")

    asked = " ".join(hub.requests)
    assert "model.safetensors" in asked
    assert not any(suffix in asked for suffix in (".bin", ".py", ".pt"))


def test_a_repository_of_pickle_alone(hub, tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "tiny")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    hub.repositories["somebody/tiny"] = folder

    with pytest.raises(UnsafeWeights, match=r"expected \*\.safetensors"):
        open_vision_encoder("somebody/tiny")


def test_no_such_repository(hub):
    with pytest.raises(ModelNotFound, match="'somebody/absent'"):
        open_vision_encoder("somebody/absent")


def test_the_cache_answers_when_the_hub_no_longer_does(hub, tmp_path, caplog):
    hub.repositories["somebody/tiny"] = write_tiny_checkpoint(tmp_path / "tiny")
    first = open_vision_encoder("somebody/tiny", revision="main")
    hub.repositories.clear()

    again = open_vision_encoder("somebody/tiny", revision="main")

    assert again.identity == first.identity
    assert "comes from the cache" in caplog.text
