"""No codec twin is written and left out: every quant/x86/ and quant/arm/ file that fills a family from quant/simd/ is entered in
codec.c under its instruction set. check_kernels tests what is entered."""
import re

import tree

codec = tree.without_comments(tree.text("quant/codec.c"))
entered = set(re.findall(r"mg_codecs_fill_(\w+)\(twins", codec))
found = set()
for path in tree.sources(".c"):
    if str(path.parent) in ("quant/x86", "quant/arm") and "MG_FILL" in tree.text(path):
        family, isa = path.stem.rsplit("_", 1)
        found.add(f"{isa}_{family}")
for name in sorted(found - entered):
    tree.problem(f"mg_codecs_fill_{name} is never called in quant/codec.c")
for name in sorted(entered - found):
    tree.problem(f"quant/codec.c enters mg_codecs_fill_{name}, which no file of quant/x86 or quant/arm is named for")
tree.finish(f"{len(found)} families of twins are entered")
