"""A fleet as one HTML file: no network, no script, readable on paper and in the dark.

Everything in it comes from records, which come from sticks, so every text is escaped and
the page forbids itself to load or run anything.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from itertools import accumulate, pairwise

from agent.core.fleet import Ending, Fleet, Row
from agent.core.record import Version, duration_text
from agent.faces.tables import (
    ENDING_WORDS,
    count_of,
    outcome_text,
    tally,
    version_text,
)

BARS_LIMIT = 12  # outcomes drawn one by one
LABEL_LIMIT = 40  # characters beside a bar
BUCKETS_S = (0, 10, 30, 60, 120, 300, 600, 1800, 3600)
BUCKET_NAMES = (
    "<10 s",
    "10-30 s",
    "30-60 s",
    "1-2 min",
    "2-5 min",
    "5-10 min",
    "10-30 min",
    "30-60 min",
    "1 h+",
)
MARKS = {
    Ending.DONE: "\N{CHECK MARK}",
    Ending.WAITING: "\N{HORIZONTAL ELLIPSIS}",
    Ending.REFUSED: "\N{MULTIPLICATION X}",
    Ending.FAILED: "!",
}

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1b1f24; --soft: #57606a; --line: #d8dee4;
  --card: #f6f8fa; --done: #1a7f4b; --waiting: #0b69c7; --refused: #8250df; --failed: #cf222e;
  --stripe: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --page: #12161b; --ink: #e6edf3; --soft: #9aa5b1; --line: #313a44; --card: #1b2129;
    --done: #3fb97a; --waiting: #5aa9f8; --refused: #b48cf7; --failed: #ff7b72;
    --stripe: #12161b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 3rem; max-width: 76rem; background: var(--page);
  color: var(--ink); font: 15px/1.45 system-ui, "Segoe UI", "DejaVu Sans", Arial, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
p { margin: .25rem 0; } .soft, figcaption, small { color: var(--soft); }
.cards { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.25rem 0; padding: 0;
  list-style: none; }
.cards li { flex: 1 1 9rem; padding: .7rem .9rem; background: var(--card); border-radius: .5rem;
  border-left: .3rem solid var(--line); }
.cards b { display: block; font-size: 1.7rem; line-height: 1.15; }
.cards .done { border-color: var(--done); } .cards .refused { border-color: var(--refused); }
.cards .waiting { border-color: var(--waiting); }
.cards .failed { border-color: var(--failed); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr));
  gap: 1.25rem; align-items: start; }
figure { margin: 0; padding: .9rem 1rem; background: var(--card); border-radius: .5rem; }
figcaption { margin-bottom: .5rem; } svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--ink); font-size: 13px; } svg .soft { fill: var(--soft); }
svg .axis { stroke: var(--line); }
svg .done { fill: var(--done); } svg .refused { fill: url(#refused); }
svg .failed { fill: url(#failed); } svg .waiting { fill: url(#waiting); }
svg .small { font-size: 11px; }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .6rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
td.n, th.n { text-align: right; white-space: nowrap; } td.w { white-space: nowrap; }
td small { display: block; } td.device { min-width: 13rem; max-width: 20rem; }
td.what { min-width: 15rem; }
td.version { min-width: 8rem; } td.steps { min-width: 7rem; }
.mark { display: inline-block; width: 1.35em; height: 1.35em; margin-right: .4em;
  border-radius: 50%; color: var(--page); text-align: center; line-height: 1.35em;
  font-weight: 700; font-size: .85em; }
.mark.done { background: var(--done); }
.mark.refused { background: var(--refused); border-radius: 3px; }
.mark.waiting { background: var(--waiting); }
.mark.failed { background: var(--failed); border-radius: 0; }
details { margin-top: 1.5rem; } summary { cursor: pointer; }
@media print { :root { color-scheme: light; --page: #fff; --ink: #000; --soft: #444; --line: #bbb;
    --card: #fff; --done: #1a7f4b; --waiting: #0b69c7; --refused: #8250df; --failed: #cf222e;
  --stripe: #fff; }
  body { padding: 0; max-width: none; font-size: 10.5pt; } thead { display: table-header-group; }
  tr, figure, .cards li { break-inside: avoid; } .scroll { overflow: visible; }
  figure, .cards li { border: 1px solid var(--line); }
  .mark, svg { -webkit-print-color-adjust: exact; print-color-adjust: exact; } }
"""

# Stripes and dots tell the endings apart where colours do not.
_PATTERNS = """<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>
<pattern id="refused" width="7" height="7" patternUnits="userSpaceOnUse"
 patternTransform="rotate(45)"><rect width="7" height="7" style="fill:var(--refused)"/>
<rect width="2" height="7" style="fill:var(--stripe)"/></pattern>
<pattern id="failed" width="7" height="7" patternUnits="userSpaceOnUse">
<rect width="7" height="7" style="fill:var(--failed)"/>
<circle cx="3.5" cy="3.5" r="1.5" style="fill:var(--stripe)"/></pattern>
<pattern id="waiting" width="6" height="6" patternUnits="userSpaceOnUse">
<rect width="6" height="6" style="fill:var(--waiting)"/>
<rect width="6" height="1.5" style="fill:var(--stripe)"/></pattern>
</defs></svg>"""


def fleet_page(fleet: Fleet, *, made_utc: datetime) -> str:
    """Return the whole page.

    Args:
        fleet: what was read.
        made_utc: when, for its first line.
    """
    body = "".join(
        (
            _PATTERNS,
            _head(fleet, made_utc),
            _charts(fleet) if fleet.rows else "<p>No record was found.</p>",
            _attention(fleet),
            _attempts(fleet),
            _skipped(fleet),
        )
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Update report</title><style>{_STYLE}</style></head>\n<body>{body}</body></html>\n"
    )


def _head(fleet: Fleet, made_utc: datetime) -> str:
    doubled = f", {count_of(fleet.duplicates, 'copy').replace('copys', 'copies')} left out"
    read = f"from {count_of(fleet.places, 'place')}{doubled if fleet.duplicates else ''}"
    devices = count_of(fleet.devices, "Device").partition(" ")[2]
    cards = "".join(_card(v.value, fleet.count(v), w) for v, w in ENDING_WORDS.items())
    return (
        f"<h1>Update report</h1><p>{escape(tally(fleet))}</p>"
        f'<p class="soft">Made {made_utc:%Y-%m-%d %H:%M} UTC {read}.</p>'
        f'<ul class="cards">{_card("", fleet.devices, devices)}{cards}</ul>'
    )


def _card(kind: str, number: int, word: str) -> str:
    return f'<li class="{kind}"><b>{number}</b>{escape(word)}</li>'


# --- charts ----------------------------------------------------------------------------


def _charts(fleet: Fleet) -> str:
    return (
        f'<h2>Outcomes and durations</h2><div class="charts">'
        f"<figure><figcaption>Attempts by outcome</figcaption>{_outcome_chart(fleet)}</figure>"
        f"<figure><figcaption>Attempts by time worked, without the reboot</figcaption>"
        f"{_duration_chart(fleet.rows)}</figure></div>"
    )


def _outcome_chart(fleet: Fleet) -> str:
    """One horizontal bar per outcome, its label above it."""
    bars = fleet.outcomes[:BARS_LIMIT]
    rest = sum(count for _, _, count in fleet.outcomes[BARS_LIMIT:])
    most = max(count for _, _, count in bars)
    drawn = "".join(_outcome_bar(index * 42, *bar, most) for index, bar in enumerate(bars))
    height = len(bars) * 42 + (20 if rest else 0)
    note = f'<text x="0" y="{height - 4}" class="soft">and {rest} others</text>' if rest else ""
    return _svg(height, "Bar chart: attempts by outcome", drawn + note)


def _outcome_bar(top: int, ending: Ending, headline: str, count: int, most: int) -> str:
    label = f"{MARKS[ending]} {ENDING_WORDS[ending]} - {_short(headline)}"
    width = max(4, round(440 * count / most))
    return (
        f'<text x="0" y="{top + 13}">{escape(label)}</text>'
        f'<rect x="0" y="{top + 18}" width="{width}" height="14" rx="2" class="{ending.value}"/>'
        f'<text x="{width + 8}" y="{top + 30}">{count}</text>'
    )


def _duration_chart(rows: Sequence[Row]) -> str:
    """Columns of a histogram, each stacked by ending; only the span that has any."""
    stacks = [Counter[Ending]() for _ in BUCKETS_S]
    for row in rows:
        stacks[_bucket(row.duration_s)][row.ending] += 1
    used = [index for index, stack in enumerate(stacks) if stack]
    span = range(max(0, used[0] - 1), min(len(BUCKETS_S), used[-1] + 2))
    most = max(stack.total() for stack in stacks)
    step = 500 / len(span)
    columns = (
        _column(n * step, step, BUCKET_NAMES[i], stacks[i], most) for n, i in enumerate(span)
    )
    axis = '<line x1="0" y1="200" x2="500" y2="200" class="axis"/>'
    return _svg(240, "Histogram: attempts by duration", "".join(columns) + axis + _legend())


def _bucket(seconds: float) -> int:
    return sum(1 for edge in BUCKETS_S if seconds >= edge) - 1


def _column(left: float, step: float, name: str, stack: Counter[Ending], most: int) -> str:
    width, middle = min(step * 0.72, 70), left + step / 2
    heights = [170 * stack[ending] / most for ending in Ending]
    edges = pairwise(accumulate(heights, initial=0.0))
    parts = "".join(
        f'<rect x="{middle - width / 2:.1f}" y="{200 - upper:.1f}" width="{width:.1f}" '
        f'height="{upper - lower:.1f}" class="{ending.value}"/>'
        for ending, (lower, upper) in zip(Ending, edges, strict=True)
        if upper > lower
    )
    top = 200 - sum(heights) - 6
    number = f'<text x="{middle:.1f}" y="{top:.1f}" text-anchor="middle">{stack.total()}</text>'
    place = f'x="{middle:.1f}" y="216" text-anchor="middle"'
    label = f'<text {place} class="soft small">{escape(name)}</text>'
    return parts + (number if stack.total() else "") + label


def _legend() -> str:
    entries = (
        f'<rect x="{index * 126}" y="226" width="12" height="12" class="{ending.value}"/>'
        f'<text x="{index * 126 + 17}" y="236" class="small">{ENDING_WORDS[ending]}</text>'
        for index, ending in enumerate(Ending)
    )
    return "".join(entries)


def _svg(height: int, label: str, inside: str) -> str:
    return f'<svg viewBox="0 0 500 {height}" role="img" aria-label="{label}">{inside}</svg>'


def _short(text: str) -> str:
    return text if len(text) <= LABEL_LIMIT else f"{text[: LABEL_LIMIT - 1]}\N{HORIZONTAL ELLIPSIS}"


# --- tables ----------------------------------------------------------------------------


def _attention(fleet: Fleet) -> str:
    if not fleet.rows:
        return ""
    if not fleet.attention:
        return "<h2>Needs attention</h2><p>Nothing: every device's last attempt is complete.</p>"
    rows = (
        f"<tr>{_device_cell(row)}{_outcome_cell(row)}"
        f"<td>{escape(row.answer.hint or row.answer.next_sentence)}</td></tr>"
        for row in fleet.attention
    )
    return "<h2>Needs attention</h2>" + _table(("Device", "Last attempt", "What to do"), rows)


def _attempts(fleet: Fleet) -> str:
    if not fleet.rows:
        return ""
    headings = ("Device", "Started UTC", "From", "To", "Outcome", "Took", "Steps")
    return "<h2>Every attempt</h2>" + _table(headings, map(_attempt, fleet.rows))


def _attempt(row: Row) -> str:
    doubt = _small("clock not reliable") if row.clock_note else ""
    return (
        f"<tr>{_device_cell(row)}<td class=w>{row.started_utc:%Y-%m-%d %H:%M}{doubt}</td>"
        f"{_version_cell(row.before)}{_version_cell(row.after)}{_outcome_cell(row)}"
        f'<td class="n">{escape(duration_text(row.duration_s))}</td>'
        f'<td class="steps">{escape(row.steps)}</td></tr>'
    )


def _device_cell(row: Row) -> str:
    more = " \N{MIDDLE DOT} ".join(x for x in (row.device.serial, row.device.hardware_id) if x)
    return f'<td class="device">{escape(row.device.name)}{_small(more)}</td>'


def _version_cell(version: Version) -> str:
    name = version.target if version.version >= 0 else ""
    return f'<td class="version">{escape(version_text(version))}{_small(name)}</td>'


def _outcome_cell(row: Row) -> str:
    kind, sign = row.ending.value, MARKS[row.ending]
    mark = f'<span class="mark {kind}" aria-hidden="true">{sign}</span>'
    words = f"{mark}{escape(outcome_text(row))}"
    return f'<td class="what">{words}{_small(row.answer.message)}</td>'


def _small(text: str) -> str:
    return f"<small>{escape(text)}</small>" if text else ""


def _table(headings: Sequence[str], rows: Iterable[str]) -> str:
    head = "".join(
        f'<th scope="col"{" class=n" if name == "Took" else ""}>{name}</th>' for name in headings
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _skipped(fleet: Fleet) -> str:
    if not fleet.skipped:
        return ""
    items = "".join(
        f"<li>{escape(skipped.path)}: {escape(skipped.why)}</li>" for skipped in fleet.skipped
    )
    count = count_of(len(fleet.skipped), "file")
    return f"<details><summary>{count} not used</summary><ul>{items}</ul></details>"
