"""What the checks share: the source tree without comments. Standard library only."""
import pathlib
import re
import sys

ROOT = pathlib.Path(sys.argv[1])
ROOMS = ["formats", "quant", "convert", "verify"]
_problems = []


def sources(*suffixes):
    """Every file of the rooms with one of these suffixes, as paths relative to the root."""
    found = [p.relative_to(ROOT) for room in ROOMS for p in (ROOT / room).rglob("*") if p.suffix in suffixes]
    if not found:
        sys.exit(f"no sources below {ROOT}")
    return sorted(found)


def text(path):
    return (ROOT / path).read_text(encoding="utf-8")


def without_comments(code):
    """C text with comments blanked (line numbers stay), string literals kept."""
    pattern = re.compile(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|/\*.*?\*/|//[^\n]*', re.S)
    return pattern.sub(lambda m: m[0] if m[0][0] in "\"'" else re.sub(r"[^\n]", " ", m[0]), code)


def problem(message):
    _problems.append(message)


def finish(what):
    for p in _problems:
        print(p)
    if _problems:
        sys.exit(f"{len(_problems)} problems")
    print(what)
