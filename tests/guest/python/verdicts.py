# SPDX-License-Identifier: GPL-2.0
"""Compares what two runs of a module of Python's tests said, as `python3 -m test --junit-xml` writes it.

    verdicts.py MODULE NATIVE.xml GUEST.xml DIFFERENCES

Each difference must have a line "MODULE TEST: why" in DIFFERENCES (TEST is a pattern of fnmatch's), and each such line
of the module one difference at least, so that the list stays true. Exits with 0 if that is so."""

import fnmatch
import sys
import xml.etree.ElementTree as ET


def verdicts(path):
    """What came of each test, by its name; the worst if it ran more than once."""
    found = {}
    for case in ET.parse(path).iter("testcase"):
        children = {child.tag for child in case}
        kind = next((tag for tag in ("error", "failure", "skipped") if tag in children), "ok")
        why = ""
        for child in case:
            if child.tag == kind:
                why = (child.get("message") or child.get("type") or child.text or "").strip().split("\n")[-1]
                if child.text:
                    why = child.text.strip().split("\n")[-1]
        name = case.get("name", "")
        if name not in found or found[name][0] == "ok":
            found[name] = (kind, why)
    return found


def main():
    module, native, guest, list_of_differences = sys.argv[1:]
    native, guest = verdicts(native), verdicts(guest)
    known = {}
    with open(list_of_differences, encoding="utf-8") as lines:
        for line in lines:
            if not line.startswith("#") and line.strip():
                what, why = line.strip().split(": ", 1)
                name, pattern = what.split(" ", 1)
                if name == module:
                    known[pattern] = [why, 0]
    bad = 0
    for test in sorted(set(native) | set(guest)):
        before, after = native.get(test, ("none", "")), guest.get(test, ("none", ""))
        if before[0] == after[0]:
            continue
        pattern = next((p for p in known if fnmatch.fnmatchcase(test, p)), None)
        why = "unexplained"
        if pattern is None:
            bad = 1
        else:
            known[pattern][1] += 1
            why = known[pattern][0]
        print(f"# {test}: native {before[0]}, micro-VM {after[0]} ({after[1][:160]}): {why}")
    for pattern, (why, count) in known.items():
        if not count:
            bad = 1
            print(f"# no difference is {pattern}, which is listed: {why}")
    counts = {kind: sum(v[0] == kind for v in guest.values()) for kind in ("ok", "skipped", "failure", "error")}
    print(f"# {module}: {len(native)} natively;", ", ".join(f"{n} {kind}" for kind, n in counts.items()))
    sys.exit(bad or not native)


main()
