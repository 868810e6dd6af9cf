"""File names are unique in the tree, every source is listed in a CMakeLists.txt, and nothing is globbed."""
import collections
import re

import tree

where = collections.defaultdict(list)
for path in tree.sources(".c", ".h", ".inc"):
    where[path.name].append(path)
for path in (tree.ROOT / "tests").glob("*.[ch]"):
    where[path.name].append(path.relative_to(tree.ROOT))
for name, paths in where.items():
    if len(paths) > 1:
        tree.problem(f"{name} is the name of {len(paths)} files: {', '.join(map(str, paths))}")

listed = set()
for room in [*tree.ROOMS, "tests"]:
    for cmake in [*(tree.ROOT / room).rglob("CMakeLists.txt"), *(tree.ROOT / room).rglob("*.cmake")]:
        code = re.sub(r"#.*", "", cmake.read_text(encoding="utf-8"))
        folder = cmake.parent.relative_to(tree.ROOT)
        if re.search(r"\bGLOB(_RECURSE)?\b", code):
            tree.problem(f"{folder}: sources are listed, not globbed")
        listed |= {str(folder / word) for word in re.findall(r"[\w./-]+\.c\b", code)}

count = 0
for path in tree.sources(".c"):
    count += 1
    if str(path) not in listed:
        tree.problem(f"{path} is listed in no CMakeLists.txt")
tree.finish(f"{len(where)} file names are unique, {count} sources are listed")
