"""Every header compiles alone, and twice: headers.py ROOT COMPILER GENERATED_FOLDER."""
import concurrent.futures
import os
import subprocess
import sys

import tree

COMPILER, GENERATED = sys.argv[2], sys.argv[3]


def compile_alone(path):
    command = [COMPILER, "-std=gnu17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE",
               "-D_FILE_OFFSET_BITS=64", "-I", str(tree.ROOT), "-I", GENERATED, "-x", "c", "-"]
    program = f'#include "{path}"\n#include "{path}"\n'
    result = subprocess.run(command, input=program, capture_output=True, text=True)
    return path, result.returncode, result.stderr


headers = tree.sources(".h")
with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for header, code, message in pool.map(compile_alone, headers):
        if code != 0:
            tree.problem(f"{header} does not compile alone:\n{message}")
tree.finish(f"{len(headers)} headers compile alone")
