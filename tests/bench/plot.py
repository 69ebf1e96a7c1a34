"""Plots as SVG: lines over logarithmic axes, bars, and a heat map. Readable on light and dark pages.

Colours come from the page's scheme by a media query inside the file; nothing is loaded from anywhere.
"""

import math
from html import escape

STYLE = """<style>
text{font:12px system-ui,sans-serif;fill:#1f2328}.t{font-weight:600;font-size:14px}.m{fill:#59636e}
.g{stroke:#d1d9e0;stroke-width:1}.x{stroke:#59636e;stroke-width:1}.b{fill:#fff}
.s0{stroke:#0969da;fill:#0969da}.s1{stroke:#cf5f16;fill:#cf5f16}.s2{stroke:#1a7f37;fill:#1a7f37}.s3{stroke:#8250df;fill:#8250df}
.l{fill:none;stroke-width:2}.lose{stroke:#cf222e;stroke-width:2}
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.m{fill:#9198a1}.g{stroke:#3d444d}.x{stroke:#9198a1}.b{fill:#0d1117}
.s0{stroke:#4493f8;fill:#4493f8}.s1{stroke:#f0883e;fill:#f0883e}.s2{stroke:#3fb950;fill:#3fb950}.s3{stroke:#ab7df8;fill:#ab7df8}}
</style>"""

BYTES = "size of the value"
WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP, BOTTOM = 78, 20, 64, 52


def number(value):
    """A figure as short as it can be and still be read."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 10_000:
        return f"{value / 1e3:.0f}k"
    if size >= 100:
        return f"{value:.0f}"
    return f"{value:.2g}" if size < 1 else f"{value:.3g}"


def size(value):
    """A number of bytes in the unit that makes it short."""
    for unit, factor in (("MiB", 2**20), ("KiB", 2**10)):
        if value >= factor:
            return f"{value / factor:g} {unit}"
    return f"{value:g} B"


def _open(title, height=HEIGHT):
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        STYLE,
        f'<rect class="b" width="{WIDTH}" height="{height}"/>',
        f'<text class="t" x="{LEFT}" y="22">{escape(title)}</text>',
    ]


class Axis:
    """Maps values to a stretch of pixels."""

    def __init__(self, values, begin, end, log):
        positive = [value for value in values if value > 0]
        self.log, self.begin, self.end = log and bool(positive), begin, end
        if self.log:
            self.low, self.high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
            self.high += self.high == self.low
        else:
            self.low, self.high = 0, max(values) * 1.08 or 1

    def at(self, value):
        scaled = math.log10(max(value, 10**self.low)) if self.log else value
        return self.begin + (scaled - self.low) / (self.high - self.low) * (self.end - self.begin)

    def ticks(self):
        if self.log:
            step = 1 + (self.high - self.low) // 9
            return [10.0**power for power in range(self.low, self.high + 1, step)]
        raw = (self.high - self.low) / 5
        step = 10 ** math.floor(math.log10(raw))
        step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= raw)
        return [step * count for count in range(int(self.high / step) + 1)]


def _axes(out, x, y, x_label, y_label, x_ticks, x_form=number):
    for value in y.ticks():
        at = y.at(value)
        out.append(f'<path class="g" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        out.append(f'<text class="m" x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{number(value)}</text>')
    for value in x_ticks:
        at = x.at(value)
        out.append(f'<path class="x" d="M{at:.1f} {HEIGHT - BOTTOM}v5"/>')
        out.append(f'<text class="m" x="{at:.1f}" y="{HEIGHT - BOTTOM + 19}" text-anchor="middle">{x_form(value)}</text>')
    out.append(f'<path class="x" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    out.append(f'<text class="m" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x_label)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    out.append(f'<text class="m" transform="translate(16 {middle})rotate(-90)" text-anchor="middle">{escape(y_label)}</text>')


def _legend(out, names, y=44):
    at = LEFT
    for index, name in enumerate(names):
        out.append(f'<rect class="s{index % 4}" x="{at}" y="{y - 9}" width="10" height="10"/>')
        out.append(f'<text x="{at + 15}" y="{y}">{escape(name)}</text>')
        at += 34 + 7 * len(name)


def lines(title, x_label, y_label, series):
    """Lines through points, both axes logarithmic; `series` maps a name to pairs of x and y."""
    series = {name: sorted(points) for name, points in series.items() if points}
    every_x = sorted({x for points in series.values() for x, _ in points})
    every_y = [y for points in series.values() for _, y in points]
    if not every_y:
        return None
    x = Axis(every_x, LEFT + 16, WIDTH - RIGHT - 16, True)
    if len(every_x) > 1:
        x.low, x.high = math.log10(every_x[0]), math.log10(every_x[-1])
    y = Axis(every_y, HEIGHT - BOTTOM, TOP, True)
    out = _open(title)
    _axes(out, x, y, x_label, y_label, every_x, size if x_label == BYTES else number)
    _legend(out, series)
    for index, points in enumerate(series.values()):
        path = "L".join(f"{x.at(px):.1f} {y.at(py):.1f}" for px, py in points)
        out.append(f'<path class="s{index % 4} l" style="fill:none" d="M{path}"/>')
        for px, py in points:
            out.append(f'<circle class="s{index % 4}" cx="{x.at(px):.1f}" cy="{y.at(py):.1f}" r="3.5"/>')
    return "\n".join([*out, "</svg>\n"])


def bars(title, y_label, groups, names):
    """Bars side by side; `groups` maps a label to one value for each of the names, or None."""
    values = [value for row in groups.values() for value in row if value is not None]
    if not values:
        return None
    y = Axis(values, HEIGHT - BOTTOM, TOP, False)
    out = _open(title)
    _axes(out, None, y, "", y_label, [])
    _legend(out, names)
    room = (WIDTH - LEFT - RIGHT) / len(groups)
    width = min(46, room * 0.8 / len(names))
    for place, (label, row) in enumerate(groups.items()):
        middle = LEFT + room * (place + 0.5)
        for index, value in enumerate(row):
            if value is None:
                continue
            left, top = middle + (index - len(row) / 2) * width, y.at(value)
            out.append(f'<rect class="s{index % 4}" x="{left:.1f}" y="{top:.1f}" width="{width - 3:.1f}" height="{HEIGHT - BOTTOM - top:.1f}"/>')
            out.append(f'<text x="{left + width / 2 - 1.5:.1f}" y="{top - 4:.1f}" text-anchor="middle" style="font-size:10px">{number(value)}</text>')
        out.append(f'<text class="m" x="{middle:.1f}" y="{HEIGHT - BOTTOM + 19}" text-anchor="middle">{escape(label)}</text>')
    return "\n".join([*out, "</svg>\n"])


def heat(title, x_label, columns, rows):
    """A grid of ratios: `rows` maps a label to one ratio for each column. Above 1 is green, below is red."""
    if not rows:
        return None
    side, label_room = 34, 190
    height = TOP + side * len(rows) + 46
    room = (WIDTH - label_room - RIGHT) / len(columns)
    out = _open(title, height)
    for place, column in enumerate(columns):
        out.append(f'<text class="m" x="{label_room + room * (place + 0.5):.1f}" y="{TOP - 8}" text-anchor="middle">{escape(column)}</text>')
    for line, (label, ratios) in enumerate(rows.items()):
        top = TOP + side * line
        out.append(f'<text class="m" x="{label_room - 8}" y="{top + 22}" text-anchor="end">{escape(label)}</text>')
        for place, ratio in enumerate(ratios):
            left = label_room + room * place
            if ratio is None:
                continue
            hue, strength = (140, min(1, math.log2(max(ratio, 1)) / 4)) if ratio >= 1 else (5, min(1, -math.log2(ratio) / 2 + 0.2))
            colour = f"hsl({hue} 55% {70 - 30 * strength:.0f}%)"
            out.append(f'<rect x="{left + 1:.1f}" y="{top + 1}" width="{room - 2:.1f}" height="{side - 2}" style="fill:{colour}"/>')
            out.append(f'<text x="{left + room / 2:.1f}" y="{top + 22}" text-anchor="middle" style="fill:#000">{ratio:.2g}×</text>')
    out.append(f'<text class="m" x="{(label_room + WIDTH) / 2}" y="{height - 14}" text-anchor="middle">{escape(x_label)}</text>')
    return "\n".join([*out, "</svg>\n"])
