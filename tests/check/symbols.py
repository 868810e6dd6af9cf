"""Every global symbol of the libraries starts with mg_: symbols.py ROOT NM LIBRARY..."""
import os
import subprocess
import sys

import tree

NM, LIBRARIES = sys.argv[2], sys.argv[3:]
count = 0
for library in LIBRARIES:
    listing = subprocess.run([NM, "-g", "--defined-only", "--format=posix", library], capture_output=True, text=True, check=True)
    for line in listing.stdout.splitlines():
        fields = line.split()
        if len(fields) < 2 or line.endswith("]:"):  # the name of a member
            continue
        count += 1
        if not fields[0].startswith("mg_"):
            tree.problem(f"{os.path.basename(library)}: {fields[0]}")
if count < 50:
    tree.problem(f"only {count} symbols were seen")
tree.finish(f"{count} global symbols of {len(LIBRARIES)} libraries start with mg_")
