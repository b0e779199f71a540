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

TOOLS = {"list_streams", "coverage", "ask", "search"}


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
        assert set(tools) >= TOOLS
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
    assert told["evidence"]["cost"]["frames_decoded"] == 0
    assert (len(found["hits"]), found["searched"]) == (2, 3)


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
