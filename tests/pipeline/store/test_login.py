"""A password in a file: read where the store is opened, anew for each connection, never sent on."""

import pickle

import pytest
import redis

from pipeline.settings import load_settings
from pipeline.store import StoreConfig, open_store
from pipeline.values.errors import StoreRefused
from tests.pipeline.store.test_flavours import free_ports, wait_until


@pytest.fixture
def password(tmp_path):
    path = tmp_path / "password"
    path.write_text("hunter2/@#\n")
    return path


@pytest.mark.parametrize("user", ["", "camera%40north"])
def test_the_password_is_read_where_the_store_is_opened(user, serve, password, info):
    server = serve("--requirepass", "hunter2/@#")
    server.client(password="hunter2/@#").execute_command(
        "ACL", "SETUSER", "camera@north", "on", ">hunter2/@#", "~*", "+@all"
    )
    url = server.url.replace("unix://", f"unix://{user}@") if user else server.url
    settings = load_settings(None, {"store": {"url": url, "password_file": str(password)}})
    sent = pickle.dumps((settings, settings.store_config()))
    assert b"hunter2" not in sent
    _, config = pickle.loads(sent)
    with open_store(config) as store:
        store.put_info(info)
        assert store.list_streams() == ["lobby"]


def test_a_password_that_is_changed_is_read_by_the_next_connection(serve, password, info):
    server = serve("--requirepass", "hunter2/@#")
    with open_store(StoreConfig(server.url, password_file=str(password))) as store:
        store.put_info(info)
        admin = server.client(password="hunter2/@#")
        admin.config_set("requirepass", "another")
        password.write_text("another\n")
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert store.list_streams() == ["lobby"]


def test_a_machine_without_the_file_says_so(serve, tmp_path):
    server = serve("--requirepass", "right")
    config = StoreConfig(server.url, password_file=str(tmp_path / "away"))
    with pytest.raises(StoreRefused, match=r"(?s)away' cannot be read .*every machine"):
        open_store(config)


def test_a_cluster_takes_it_too(start, password, info):
    [port] = free_ports(1)
    start(port, "--cluster-enabled", "yes")
    admin = redis.Redis(port=port)
    admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    wait_until(lambda: admin.cluster("INFO")["cluster_state"] == "ok")
    admin.config_set("requirepass", "hunter2/@#")
    with open_store(
        StoreConfig(f"redis://127.0.0.1:{port}/0", password_file=str(password))
    ) as store:
        store.put_info(info)
        assert store.list_streams() == ["lobby"]


def test_the_primary_that_sentinels_name_takes_it_too(start, watch_primary, password, info):
    primary, port = free_ports(2)
    start(primary).config_set("requirepass", "hunter2/@#")
    watch_primary(port, primary, "sentinel auth-pass main hunter2/@#")
    url = f"sentinel://127.0.0.1:{port}/main/0"
    with open_store(StoreConfig(url, password_file=str(password))) as store:
        store.put_info(info)
        assert store.list_streams() == ["lobby"]
