"""Every row of golden/verify/kld.json: llama-perplexity's figures for weights widened to f32, beside ours for files that our
quantize makes of the same model. Needs MOEGRAFT_SHARED; no package beside the standard library."""
import json
import os
import pathlib
import sys

from peers import WORK, run

if "MOEGRAFT_SHARED" not in os.environ:
    print("skipped: MOEGRAFT_SHARED is not set")
    sys.exit()
SHARED = pathlib.Path(os.environ["MOEGRAFT_SHARED"])
golden = json.loads((SHARED / "golden/verify/kld.json").read_text())
rows = {kind: row["dequantized"] for kind, row in golden["types"].items()}
model = SHARED / "models/moe4"
for options, suffix in (([], ""), (["--imatrix", SHARED / "golden/gguf/imatrix.gguf"], "+imatrix")):
    names = [k.removesuffix("+imatrix") for k in rows if k.endswith("+imatrix") == bool(suffix)]
    run("quantize", model, *(o for k in names for o in ("-o", f"{WORK / k}{suffix}.gguf={k}")), *options, "-q")
found = json.loads(run("verify", model, *(WORK / f"{k}.gguf" for k in rows), "--text", SHARED / "models/text" / golden["text"],
                       "--ctx", golden["ctx"], "--json", "-q"))
by_kind = {pathlib.Path(c["path"]).name.removesuffix(".gguf"): c for c in found["candidates"]}

print(f"{'':18}{'mean KLD':^32}{'perplexity':^30}{'same top, %':^24}{'llama.cpp run':>14}")
print(f"{'':18}{'golden':>10}{'ours':>12}{'differs':>10}{'golden':>12}{'ours':>11}{'differs':>10}{'golden':>9}{'ours':>9}{'':>6}{'mean KLD':>14}")
bad = []
for kind, want in rows.items():
    c = by_kind[kind]
    kl, ppl, top = c["kl"]["mean"], c["ppl"]["candidate"], 100 * c["top1_agreement"]
    kld, goal, same = want["Mean    KLD"], want["Mean PPL(Q)"], want["Same top p"]
    print(f"{kind:18}{kld:10.6f}{kl:12.8f}{kl / kld - 1:10.2%}{goal:12.6f}{ppl:11.6f}{ppl / goal - 1:10.4%}{same:9.3f}{top:9.3f}"
          f"{golden['types'][kind]['llama_runtime']['Mean    KLD']:20.6f}")
    # The golden figure has six decimals; perplexity 0.01 %, same top 0.05 points: what the two f32 passes may differ by.
    if abs(kl - kld) > max(0.01 * kld, 1e-6) or abs(ppl / goal - 1) > 1e-4 or abs(top - same) > 0.05:
        bad.append(kind)
base = found["candidates"][0]["ppl"]["reference"]
print(f"reference: perplexity {base:.6f}, golden {want['Mean PPL(base)']:.6f}; {found['tokens']} positions")
assert not bad and abs(base / want["Mean PPL(base)"] - 1) < 1e-4, bad
