"""What the documents tell a reader to type exists, and so do the files they point to: examples.py ROOT BIN.

README.md's examples name every built tool, options of its --help that are built, and sample files that are there.
docs/cli.md names every built tool. Links between documents lead somewhere."""
import pathlib
import re
import shlex
import subprocess
import sys

import tree

BIN = pathlib.Path(sys.argv[2])
built = {p.name.removeprefix("moegraft-") for p in BIN.glob("moegraft-*")}
helps = {t: subprocess.run([str(BIN / f"moegraft-{t}"), "--help"], capture_output=True, text=True, check=True).stdout
         for t in built}


def option_help(tool, option):
    """The words of --help about an option, or None. Long help lines are wrapped, so joined first."""
    entries = re.split(r"\n  (?=-)", helps[tool])
    for entry in entries[1:]:
        names = re.split(r" {2,}|\n", entry)[0].replace(",", " ").split()
        if option in names:
            return " ".join(entry.split("\n\n")[0].split())
    return None


examples = re.findall(r"^    moegraft (.+)$", tree.text("README.md"), re.M)
for line in examples:
    tool, *words = shlex.split(line)
    if tool not in built:
        tree.problem(f"README.md: moegraft {tool} is not built")
        continue
    for word in words:
        if re.fullmatch(r"-[a-z]|--[a-z-]+", word):
            text = option_help(tool, word)
            if text is None or "not built yet" in text:
                tree.problem(f"README.md: {tool} has no option {word}")
        elif word.startswith("samples/") and not (tree.ROOT / word).exists():
            tree.problem(f"README.md: no file {word}")
for tool in built:
    if not any(line.split()[0] == tool for line in examples):
        tree.problem(f"README.md: no example of {tool}")
    if f"| `{tool} " not in tree.text("docs/cli.md"):
        tree.problem(f"docs/cli.md: no line about {tool}")

links = 0
for page in [tree.ROOT / "README.md", tree.ROOT / "samples/README.md", *sorted((tree.ROOT / "docs").glob("*.md"))]:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        links += 1
        if not (page.parent / target).exists():
            tree.problem(f"{page.relative_to(tree.ROOT)}: link to {target}, which does not exist")
if len(examples) < 10 or links < 10:
    tree.problem(f"only {len(examples)} examples and {links} links were seen")
tree.finish(f"{len(examples)} examples and {links} links lead somewhere")
