"""`aot doctor` and `aot config`: is everything there, and what is set."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from pipeline.cli.output import common_of, print_json, print_table, settings_of
from pipeline.values.plain import one_line, to_plain

if TYPE_CHECKING:
    from pipeline.settings import Settings

KNOWN_BAD_FFMPEG = (8, 1, 3)
"""FFmpeg below this lets HLS playlists by-pass protocol checks (CVE-2026-107697)."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    name: str
    ok: bool
    found: str
    mend: str = ""
    """What to do when it is not ok, or a warning when it is."""


def doctor(context: typer.Context, as_json: bool = typer.Option(False, "--json")) -> int:
    """Look at decoder, device, store, model and Ray; exit 1 with how to mend each."""
    settings = settings_of(context, strict=False)
    checks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        _decoder,
        _device,
        _store,
        _model,
        _ray,
        _environment,
    )
    findings = [finding for check in checks for finding in _look(check, settings)]
    ok = all(finding.ok for finding in findings)
    if as_json:
        print_json({"ok": ok, "checks": to_plain(findings)})
    else:
        rows = [("ok" if f.ok else "FAIL", f.name, f.found, f.mend) for f in findings]
        print_table(("", "CHECK", "FOUND", "TO DO"), rows)
    return 0 if ok else 1


def config(context: typer.Context, as_json: bool = typer.Option(False, "--json")) -> int:
    """The settings as they stand, and where each came from."""
    from pipeline.settings import explain

    common = common_of(context)
    rows = list(explain(common.config, common.overrides()))
    if as_json:
        print_json({name: {"value": value, "from": origin} for name, value, origin in rows})
    else:
        print_table(("SETTING", "VALUE", "FROM"), rows)
    return 0


def _look(
    check: "Callable[[Settings], Iterator[Finding]]", settings: "Settings"
) -> Iterator[Finding]:
    try:
        yield from check(settings)
    except Exception as error:
        name = check.__name__.strip("_")
        yield Finding(name, False, getattr(error, "code", type(error).__name__), one_line(error))


def _decoder(settings: "Settings") -> Iterator[Finding]:
    from workers.decode.report import decoder_versions

    pyav, ffmpeg = decoder_versions()
    numbers = tuple(int(part) for part in ffmpeg.split(".") if part.isdigit())
    old = bool(numbers) and numbers < KNOWN_BAD_FFMPEG
    warning = "older than 8.1.3: read playlists from trusted places only" if old else ""
    yield Finding("decoder", True, f"PyAV {pyav}, FFmpeg {ffmpeg}", warning)
    yield _card(settings.decode.backend)


def _card(backend: str) -> Finding:
    """Whether pictures can be decoded on a card, and whether the settings let them be."""
    from workers.decode.cuda import why_no_card

    reason = why_no_card()
    if reason is not None:
        mend = "install NVIDIA's driver, or set decode.backend: cpu" if backend == "cuda" else ""
        return Finding("decoding", backend != "cuda", f"on the CPU: {reason}", mend)
    if backend == "cpu":
        mend = "decode.backend: cuda decodes files on the card"
        return Finding("decoding", True, "on the CPU, as decode.backend says", mend)
    return Finding("decoding", True, "on the card (NVDEC)")


def _device(settings: "Settings") -> Iterator[Finding]:
    from workers.models.device import describe_device

    yield Finding(
        "device", True, f"{settings.model.device}: {describe_device(settings.model.device)}"
    )


def _store(settings: "Settings") -> Iterator[Finding]:
    from pipeline.store import open_store

    with open_store(settings.store_config()) as store:
        health, stats = store.check(), store.stats()
    found = f"{health.server}, {stats.num_streams} streams"
    yield Finding("store", not health.problems, found, "; ".join(health.problems))


def _model(settings: "Settings") -> Iterator[Finding]:
    from workers.models.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(settings.model.id, settings.model.revision)
    yield Finding("model", True, f"{checkpoint.model_id} ({checkpoint.model_type})")


def _ray(settings: "Settings") -> Iterator[Finding]:
    if not settings.ray.enabled:
        yield Finding("ray", True, "off: everything runs in this process")
        return
    from workers.cluster.connect import cluster_version, is_token_auth_on

    auth = is_token_auth_on()
    warning = "" if auth else "token authentication is off: set RAY_AUTH_MODE=token before joining"
    where = settings.ray.address or "private cluster of this process"
    yield Finding("ray", True, f"Ray {cluster_version()}, {where}", warning)


def _environment(settings: "Settings") -> Iterator[Finding]:
    from pipeline.settings import unknown_variables

    unknown = unknown_variables()
    found = f"set nothing: {', '.join(unknown)}" if unknown else "no misspelt AOT_ variables"
    yield Finding("environment", True, found, "see `aot config` for names" if unknown else "")
