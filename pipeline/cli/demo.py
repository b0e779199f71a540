"""`aot demo`: does it work, with the bundled model on bundled scenes."""

import typer

from pipeline.cli.extras import load_extra


def demo(as_json: bool = typer.Option(False, "--json")) -> int:
    """The bundled model on bundled scenes: ingest, questions, answers."""
    return load_extra("aot.demos", "demo")(as_json=as_json)
