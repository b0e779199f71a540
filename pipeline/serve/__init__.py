"""The service: streams, clips, questions and standing questions over HTTP and MCP.

`app` puts the routes behind the `gate`, `http` runs them on uvicorn. What they do is the
pipeline's; here requests become its values and its values become JSON. Only home of fastapi,
uvicorn and mcp. Nothing is loaded here.
"""
