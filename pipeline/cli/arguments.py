"""Options of every command, wherever they stand: people write them before the command and behind.

Only their places in the list of arguments are changed here; what they mean is said where they are
declared.
"""

COMMON = ("--config", "-c", "--store")
"""Take a value; the common options before the command."""
EVERYWHERE = "Options of every command, before it or behind it: --config/-c FILE, --store URL, " + (
    "--json, --debug."
)


def arrange(arguments: list[str]) -> list[str]:
    """Common options to the front, `--json` to the end; what stands behind `--` stays."""
    ours, literal = _split(arguments)
    front: list[str] = []
    rest: list[str] = []
    wants_json = False
    words = iter(ours)
    for word in words:
        if word == "--json":
            wants_json = True
        elif word == "--debug":
            front.append(word)
        elif word in COMMON:
            front += [word, *_next(words)]
        elif word.startswith(("--config=", "--store=")):
            front.append(word)
        else:
            rest.append(word)
    return [*front, *rest, *(["--json"] if wants_json else []), *literal]


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at:]


def _next(words) -> list[str]:
    return [word for word in (next(words, None),) if word is not None]
