"""moegraft alone and moegraft TOOL, from a copy beside which only two tools exist: nothing here depends on what is built."""
import os
import shutil
import subprocess

import common
from common import check, same

shutil.copy2(common.BIN / "moegraft", common.WORK / "moegraft")
for name in ("merge", "calibrate"):
    script = common.WORK / f"moegraft-{name}"
    script.write_text('#!/bin/sh\nprintf "%s:" "$0" "$@"\nexit 42\n')
    script.chmod(0o755)
door = common.WORK / "moegraft"


def run(*args, cwd="/"):
    r = subprocess.run([str(door), *args], capture_output=True, text=True, cwd=cwd)
    return r.returncode, r.stdout, r.stderr


code, out, err = run()
same(code, 0, "alone")
lines = out.splitlines()
check(any(line.startswith("  merge ") and "not built" not in line for line in lines), "merge is listed as built")
check(any(line.startswith("  verify ") and "(not built yet)" in line for line in lines), "verify is listed as not built")
same(sum(line.startswith("  moegraft ") for line in lines), 3, "whole example commands")
same(run("--help")[1], out, "--help")
check(run("--version")[1].startswith("moegraft "), "--version")

code, out, err = run("merge", "--to", "a b", "")
same((code, out), (42, f"{common.WORK}/moegraft-merge:--to:a b::"), "merge runs with its arguments and exit code")
same(run("imatrix", "x")[:2], (42, f"{common.WORK}/moegraft-calibrate:x:"), "imatrix is calibrate")
check(any(line.startswith("  imatrix ") and "not built" not in line for line in lines), "imatrix is listed as built")
same(run("help", "merge")[:2], (42, f"{common.WORK}/moegraft-merge:--help:"), "help TOOL")
os.symlink(door, common.WORK / "link")
same(subprocess.run([str(common.WORK / "link"), "merge"]).returncode, 42, "through a symbolic link")

code, out, err = run("verify", "a")
same((code, out), (4, ""), "a tool that is not built")
check("not built yet" in err, err)
code, out, err = run("mrege")
same((code, out), (2, ""), "unknown tool")
check("nearest: 'merge'" in err and "next: moegraft --help" in err, err)
for bad in ("../bin/sh", "-x", "merge/", "x" * 5000):
    same(run(bad)[0], 2, bad[:20])

common.done()
