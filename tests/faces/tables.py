"""Tables of a report in Markdown."""

import re


def tables_of(text):
    """Every Markdown table by the last heading before it: dicts of rows by their first cell."""
    found, heading, lines = {}, "", []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            lines.append([cell.strip() for cell in line.strip("|").split("|")])
            continue
        if lines:
            header, rule, *rows = lines
            assert all(re.fullmatch(r":?-+:?", cell) for cell in rule)
            assert all(len(row) == len(header) for row in rows)
            named = {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}
            found.setdefault(heading, []).append(named)
            lines = []
        if line.startswith("#"):
            heading = line.lstrip("# ")
    return found
