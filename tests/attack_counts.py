"""How many damages and kills the tests of one run made, and how these ended.

A test hands its counts over by `record_property(KEY, rows)`, each row as `row` makes it.
"""

from collections import Counter

KEY = "attacks"


def row(attack, what, **ends):
    """How many times `what` was attacked so, by how it ended.

    Args:
        attack (str): heads a line, as "damaged files, by kind".
        what (str): of the file or command.
        ends (int): counts.
    """
    return [attack, what, ends]


def table(reports):
    """Lines: a sum for each attack, then what was attacked."""
    found = {}
    for report in reports:
        # A test's properties stand in the reports of its set-up and its end too.
        called = getattr(report, "when", None) == "call"
        for key, rows in report.user_properties if called else ():
            for attack, what, ends in rows if key == KEY else ():
                found.setdefault(attack, {}).setdefault(what, Counter()).update(ends)
    for attack, counts in sorted(found.items()):
        yield f"{attack}: {said(sum(counts.values(), Counter()))}"
        for what, ends in sorted(counts.items()):
            yield f"    {what}: {said(ends)}"


def said(ends):
    return ", ".join(f"{number} {end.replace('_', ' ')}" for end, number in ends.items())
