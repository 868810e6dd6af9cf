#!/usr/bin/env python3
"""Token rows for the tools' --tokens: windows of 255 tokens of a text, each behind a BOS.

usage: rows.py IDS.json      (what `moegraft tokenize --json` prints; rows go to stdout, one a line)
A last window of fewer than 20 tokens is left out."""
import json
import sys

TOKENS, SHORTEST = 255, 20


def rows(ids):
    bos, text = ids[0], ids[1:]
    return [[bos] + text[at:at + TOKENS] for at in range(0, len(text) - SHORTEST, TOKENS)]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as f:
        for row in rows(json.load(f)["ids"]):
            print(*row)
