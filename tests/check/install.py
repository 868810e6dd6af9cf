"""An installed copy works: install.py ROOT BUILD WORK. Tools find each other, and a program builds against the libraries
through pkg-config and through find_package."""
import os
import pathlib
import shutil
import subprocess
import sys

BUILD, WORK = pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
PREFIX = WORK / "prefix"

PROGRAM = r"""
#include <stdio.h>
#include "formats/base/cpu.h"
#include "formats/base/hash.h"
int main(void) {
    char hex[33];
    mg_hex(mg_xxh128_of("", 0).bytes, 16, hex);
    puts(hex);
    return mg_cpu_check(NULL);
}
"""
EXPECTED = "99aa06d3014798d86001c324468d497f"
CMAKE = """
cmake_minimum_required(VERSION 3.25)
project(user C)
find_package(moegraft REQUIRED)
add_executable(user user.c)
target_link_libraries(user PRIVATE mg::mg_base)
"""


def run(*command, env=None, **kwargs):
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, env={**os.environ, **(env or {})}, **kwargs)
    if result.returncode != 0:
        sys.exit(f"{command}: exit {result.returncode}\n{result.stdout}\n{result.stderr}")
    return result.stdout


def expect(found, what):
    if found.strip() != EXPECTED:
        sys.exit(f"{what}: printed {found!r}, expected {EXPECTED}")


shutil.rmtree(WORK, ignore_errors=True)
WORK.mkdir(parents=True)
run("cmake", "--install", BUILD, "--prefix", PREFIX)
(WORK / "user.c").write_text(PROGRAM)
(WORK / "CMakeLists.txt").write_text(CMAKE)
libraries = next(PREFIX.rglob("libmg_base.a")).parent

flags = run("pkg-config", "--cflags", "--libs", "moegraft", env={"PKG_CONFIG_PATH": str(libraries / "pkgconfig")}).split()
run("cc", WORK / "user.c", "-o", WORK / "user", *flags)
expect(run(WORK / "user"), "pkg-config")

run("cmake", "-S", WORK, "-B", WORK / "build", f"-DCMAKE_PREFIX_PATH={PREFIX}")
run("cmake", "--build", WORK / "build")
expect(run(WORK / "build" / "user"), "find_package")

tools = sorted(p.name for p in (PREFIX / "bin").iterdir())
if "moegraft" not in tools or len(tools) < 2:
    sys.exit(f"tools installed: {tools}")
for tool in tools:
    run(PREFIX / "bin" / tool, "--version", env={"PATH": "/usr/bin:/bin"})
    if tool != "moegraft":
        run(PREFIX / "bin" / "moegraft", tool.removeprefix("moegraft-"), "--help", env={"PATH": "/usr/bin:/bin"})
        page = next(PREFIX.rglob(f"{tool}.1")).read_text()
        if not page.startswith(".TH"):
            sys.exit(f"{tool}.1 is no man page")
print(f"{len(tools)} tools and the libraries work from {PREFIX}")
