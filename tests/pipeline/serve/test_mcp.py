"""The MCP server by the official client: over HTTP with keys, over stdio as a command."""

import base64
import os
import sys
from pathlib import Path

import anyio
import httpx2
import pyarrow as pa
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from tests.pipeline.conftest import CLIPS
from tests.pipeline.serve.conftest import serving, with_serve

TOOLS = {"list_streams", "coverage", "ask", "search", "compare", "watch_list"}


def call(served, key, work):
    """What `work` makes of a client with that key."""

    async def run():
        headers = {} if key is None else {"Authorization": f"Bearer {served.keys.get(key, key)}"}
        async with (
            httpx2.AsyncClient(headers=headers, trust_env=False, timeout=60) as http,
            Client(streamable_http_client(f"{served.url}/mcp", http_client=http)) as client,
        ):
            return await work(client)

    return anyio.run(run)


def text_of(result) -> str:
    return result.content[0].text


def test_an_agent_lists_looks_and_asks(served):
    async def work(client):
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == TOOLS
        assert all(tool.annotations.read_only_hint for tool in tools.values())
        streams = (await client.call_tool("list_streams", {})).structured_content["streams"]
        seen = await client.call_tool("coverage", {"stream": "walk", "last": "6s"})
        told = await client.call_tool(
            "ask", {"question": "what is seen", "streams": ["walk"], "last": "4s"}
        )
        found = await client.call_tool(
            "search", {"question": "what is seen", "streams": ["walk"], "last": "6s", "top": 2}
        )
        return (streams, seen.structured_content, told.structured_content, found.structured_content)

    streams, seen, told, found = call(served, None, work)
    assert {"walk", "other"} <= {stream["stream_id"] for stream in streams}
    assert (seen["start_s"], seen["clips"]) == (14.0, 3)
    assert told["answer"]
    assert [span["start_s"] for span in told["evidence"]["spans"]] == [16.0, 18.0]
    assert all("T" in span["wall_start"] for span in told["evidence"]["spans"])
    assert told["evidence"]["cost"]["frames_decoded"] == 0
    assert (len(found["hits"]), found["searched"]) == (2, 3)


def test_windows_are_compared_each_by_itself(served):
    windows = [{"stream": "walk", "last": "4s"}, {"stream": "other", "start": "0", "end": "2"}]

    async def work(client):
        given = {"question": "what is seen", "windows": windows}
        one = {"question": "what is seen", "streams": ["walk"], "last": "4s"}
        return (
            (await client.call_tool("compare", given)).structured_content["answers"],
            (await client.call_tool("ask", one)).structured_content,
            await client.call_tool("compare", {**given, "windows": [*windows, {"stream": "no"}]}),
        )

    (first, second), alone, unknown = call(served, None, work)
    assert (first["window"], second["window"]) == tuple(windows)
    assert first["answer"] == alone["answer"]
    starts = [[s["start_s"] for s in one["evidence"]["spans"]] for one in (first, second)]
    assert starts == [[16.0, 18.0], [0.0]]
    assert "UnknownStream" in text_of(unknown)


def test_a_watch_is_added_by_who_may_where_agents_may_write(base, keyed):
    keys_file = keyed.service.settings.serve.keys_file
    given = {"watch_id": "w-agent", "stream": "walk", "question": "is the door open"}

    async def add(client):
        return await client.call_tool("watch_add", given)

    async def tools(client):
        return {tool.name: tool for tool in (await client.list_tools()).tools}

    assert "watch_add" not in call(keyed, "ingest", tools)
    with serving(with_serve(base, keys_file=keys_file, mcp_writes=True)) as one:
        one.keys = keyed.keys
        found = call(one, "ingest", tools)
        assert [name for name, tool in found.items() if not tool.annotations.read_only_hint] == [
            "watch_add"
        ]
        refused = call(one, "read", add)
        assert refused.is_error
        assert "NotAllowed" in text_of(refused)
        assert call(one, "ingest", add).structured_content["watch_id"] == "w-agent"
        assert "Conflict" in text_of(call(one, "ingest", add))

        async def listed(client):
            return (await client.call_tool("watch_list", {"stream": "walk"})).structured_content

        [watch] = [w for w in call(one, "read", listed)["watches"] if w["watch_id"] == "w-agent"]
        assert (watch["question"], watch["is_raised"]) == ("is the door open", False)
        other = {**given, "stream": "other"}

        async def elsewhere(client):
            return await client.call_tool("watch_add", other)

        assert "UnknownStream" in text_of(call(one, "walk", elsewhere))  # not of its streams
        one.service.store.remove_watch("walk", "w-agent")


def test_a_clip_is_an_arrow_resource(served):
    async def work(client):
        return (await client.read_resource("clip://walk/0-1")).contents[0]

    content = call(served, None, work)
    assert content.mime_type == "application/vnd.apache.arrow.stream"
    assert pa.ipc.open_stream(base64.b64decode(content.blob)).read_all().num_rows > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"streams": ["nobody"]}, "UnknownStream"),
        ({"streams": ["walk"], "start": "500", "end": "600"}, "NoFootage"),
        ({"streams": ["walk"], "last": "3650d"}, "QueryTooLarge"),
        ({"streams": []}, "streams"),
    ],
)
def test_what_cannot_be_asked_is_an_error_that_a_model_reads(served, arguments, words):
    async def work(client):
        return await client.call_tool("ask", {"question": "what is seen", **arguments})

    result = call(served, None, work)
    assert result.is_error
    assert words in text_of(result)


def test_a_list_that_cannot_be_had_is_told_as_any_error(served, monkeypatch):
    def fail():
        raise RuntimeError("a secret of this machine")

    async def work(client):
        return await client.call_tool("list_streams", {})

    monkeypatch.setattr(served.service.store, "iter_overviews", fail)
    result = call(served, None, work)
    assert result.is_error
    assert "InternalError: the service failed" in text_of(result)
    assert "secret" not in text_of(result)


def test_a_key_sees_its_own_streams_and_without_one_there_is_nothing(keyed):
    async def work(client):
        streams = (await client.call_tool("list_streams", {})).structured_content["streams"]
        other = await client.call_tool("coverage", {"stream": "other"})
        ghost = await client.call_tool("coverage", {"stream": "ghost"})
        return streams, text_of(other), text_of(ghost)

    streams, other, ghost = call(keyed, "walk", work)
    assert [stream["stream_id"] for stream in streams] == ["walk"]
    assert other.replace("other", "ghost") == ghost
    with httpx2.Client(trust_env=False) as client:
        assert client.post(f"{keyed.url}/mcp", json={}).status_code == 401


def test_a_command_serves_an_agent_over_stdio(run, video):
    assert run("ingest", video).code == 0
    command = "from pipeline.cli import main; raise SystemExit(main())"
    server = StdioServerParameters(
        command=sys.executable,
        args=["-c", command, "mcp", "-s", "walk"],
        env=dict(os.environ),
        cwd=Path(__file__).parents[3],
    )

    async def work():
        async with Client(server) as client:
            streams = await client.call_tool("list_streams", {})
            told = await client.call_tool("ask", {"question": "what", "streams": ["walk"]})
            return streams.structured_content["streams"], told.structured_content

    [stream], told = anyio.run(work)
    assert (stream["stream_id"], stream["clips"]) == ("walk", CLIPS)
    assert told["evidence"]["cost"]["clips_read"] == CLIPS
