"""What the tests of AWQ and GPTQ have in common: random ids to calibrate with, a run into a fresh folder, its report, how far a model is from another."""
import random
import shutil

import common

TINY = common.DATA / "models" / "tiny"
random.seed(3)
IDS = common.WORK / "ids.txt"
IDS.write_text("".join(" ".join(str(random.randrange(3, 60)) for _ in range(48)) + "\n" for _ in range(8)))


def calibrated(model, out, *options, expect=0, env=None):
    shutil.rmtree(common.WORK / out, ignore_errors=True)
    return common.run("quantize", model, common.WORK / out, *options, "--progress", "none", expect=expect, env=env)


def report(out):
    return common.json.loads((common.WORK / out / "calibration.json").read_text())


def divergence(reference, candidate, *text):
    return common.run("verify", reference, common.WORK / candidate, *text, "--json").json()["candidates"][0]["kl"]["mean"]
