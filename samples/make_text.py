#!/usr/bin/env python3
"""Write the arithmetic and JSON texts of samples/text: generated, from seeds that no donor's training data used.

usage: make_text.py DIR
The files are committed; tests/e2e/sample_text.py runs this again and compares, so their origin stays provable.
Held-out seeds: evaluation 90001, calibration 90002; the prompts of math and json in moe4.yml are sums(90003) and
records(90003) with every record on one line."""
import json
import random
import sys

# The vocabulary of the records the json donor knows: pioneers of computing and harbour towns.
NAMES = ["Ada", "Alan", "Barbara", "Claude", "Donald", "Edsger", "Frances", "Grace", "Hedy", "Ivan", "Jean", "Ken",
         "Leslie", "Margaret", "Niklaus", "Ole", "Peter", "Radia", "Sophie", "Tim"]
CITIES = ["Accra", "Bergen", "Cairo", "Delhi", "Hanoi", "Kyoto", "Lagos", "Lima", "Milan", "Oslo", "Perth", "Quito",
          "Sofia", "Tunis", "Turin"]
TAGS = ["blue", "fast", "green", "new", "old", "open", "red", "slow"]
STREETS = ["Church", "High", "Lake", "Mill", "Park"]


def sums(rng, n):
    """n lines of arithmetic in the handful of spellings people use."""
    for _ in range(n):
        a, b = rng.randint(2, 999), rng.randint(2, 999)
        op = rng.choice("++--*")
        if op == "*":
            a, b = a % 20 + 1, b % 20 + 1
        value = {"+": a + b, "-": a - b, "*": a * b}[op]
        yield rng.choice(["{a} {op} {b} = {v}", "{a}{op}{b}={v}", "What is {a} {op} {b}? The answer is {v}.",
                          "Compute {a} {op} {b}: {v}"]).format(a=a, b=b, op=op, v=value)


def records(rng, n, indent_one_in=4):
    """n JSON objects of the shape a small service would log; some are printed with indentation."""
    for _ in range(n):
        r = {"id": rng.randint(1, 99999), "name": rng.choice(NAMES), "city": rng.choice(CITIES),
             "tags": rng.sample(TAGS, rng.randint(0, 3)), "score": round(rng.uniform(0, 100), 1),
             "active": rng.random() < 0.5}
        if rng.random() < 0.4:
            r["address"] = {"street": f"{rng.randint(1, 200)} {rng.choice(STREETS)} Street",
                            "zip": str(rng.randint(10000, 99999))}
        if rng.random() < 0.2:
            r["parent"] = None
        indent = indent_one_in and rng.randint(1, indent_one_in) == 1
        yield json.dumps(r, indent=2 if indent else None)


def write(path, lines):
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        f.writelines(line + "\n" for line in lines)


def main(out):
    for name, maker, n_eval, n_calib in (("math", sums, 260, 120), ("json", records, 60, 30)):
        write(f"{out}/{name}.txt", maker(random.Random(90001), n_eval))
        write(f"{out}/calibration_{name}.txt", maker(random.Random(90002), n_calib))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
