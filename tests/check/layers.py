"""Includes go one way: formats/base <- formats <- formats/arch <- quant <- {convert, verify} (docs/layers.md).

tool_*.c may include from every room. A third-party library is included by its one wrapper only.
"""
import pathlib
import re

import tree

LEVEL = {"formats/base": 0, "formats": 1, "formats/arch": 2, "quant": 3, "convert": 4, "verify": 4}

# header -> the only files that may include it
WRAPPERS = {
    "cJSON.h": {"formats/base/json.c"},
    "yaml.h": {"formats/base/yaml.c"},
    "zstd.h": {"formats/base/zfile.c"},
    "zstd_errors.h": {"formats/base/zfile.c"},
    "pcre2.h": {"formats/base/regex.c"},
    "utf8proc.h": {"formats/base/unicode.c"},
    "xxhash.h": {"formats/base/hash.c", "formats/base/strmap.c"},
}


def room(path):
    for name in sorted(LEVEL, key=len, reverse=True):
        if str(path).startswith(name + "/"):
            return name
    return None


def check(path, line, quoted, target):
    where = f"{path}:{line}"
    name = pathlib.PurePosixPath(target).name
    if not quoted:
        if name in WRAPPERS and str(path) not in WRAPPERS[name]:
            tree.problem(f"{where}: only {' and '.join(sorted(WRAPPERS[name]))} may include <{target}>")
        return
    if target == "mg_version.h":  # written by CMake
        return
    if not (tree.ROOT / target).exists():
        if not (tree.ROOT / path.parent / target).exists():
            tree.problem(f"{where}: \"{target}\" is neither below the root nor beside the file")
        elif target.endswith(".h"):
            tree.problem(f"{where}: write \"{path.parent / target}\", the path from the root")
        return
    if path.name.startswith("tool_"):
        return
    here, there = room(path), room(target)
    if there is None:
        tree.problem(f"{where}: \"{target}\" is in no room")
    elif here != there and LEVEL[there] >= LEVEL[here]:
        tree.problem(f"{where}: {here} may not include from {there} (\"{target}\")")


count = 0
for source in tree.sources(".c", ".h", ".inc"):
    code = tree.without_comments(tree.text(source))
    for number, line in enumerate(code.splitlines(), 1):
        found = re.match(r'\s*#\s*include\s*(["<])([^">]+)[">]', line)
        if found:
            count += 1
            check(source, number, found[1] == '"', found[2])
tree.finish(f"{count} includes follow the layers")
