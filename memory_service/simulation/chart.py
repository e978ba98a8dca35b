"""The outcomes as an SVG drawing: what a turn costs as threads grow, and what is read from the prompt cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, floor, log10
from xml.sax.saxutils import escape

from memory_service.simulation.replay import ModelOutcomes, Outcome

_WIDTH, _PANEL, _TOP, _BOTTOM = 920, 330, 64, 46
_PLOT_LEFT, _PLOT_RIGHT, _NAMES_RIGHT, _BARS_RIGHT = 66, 520, 728, 872
_BUCKETS = 40
# Ours are blue, and green with recall; what they are compared with is neither, and dashed.
_WINDOW = ("#1d4ed8", "#60a5fa", "#93c5fd")
_RECALL = ("#15803d", "#4ade80", "#86efac")
_BASELINES = ("#6b7280", "#d97706", "#fbbf24", "#a78bfa", "#dc2626")
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1f2937}.s{font-size:11px;fill:#6b7280}.t{font-size:14px;font-weight:600}"
)


def draw(models: Sequence[ModelOutcomes], caption: str) -> str:
    """One row a model. The same outcomes give the same bytes."""
    height = _PANEL * len(models) + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}">',
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>',
    ]
    for row, model in enumerate(models):
        parts += [f'<g transform="translate(0 {row * _PANEL})">', *_row(model), "</g>"]
    parts += [_text(_PLOT_LEFT, height - 10, caption, "s"), "</svg>\n"]
    return "\n".join(parts)


def _row(model: ModelOutcomes) -> Iterator[str]:
    colours = _colours(model.outcomes)
    yield _text(_PLOT_LEFT, 26, f"{model.model.name}, max_prompt_tokens {model.limit:,}", "t")
    yield _text(_PLOT_LEFT, 48, "input cost of a turn, US cents", "s")
    yield _text(_NAMES_RIGHT + 8, 48, "read from the prompt cache", "s")
    yield from _lines(model.outcomes, colours)
    yield from _bars(model.outcomes, colours)


def _colours(outcomes: Sequence[Outcome]) -> list[str]:
    palettes = [_palette(outcome) for outcome in outcomes]
    return [palette[palettes[:at].count(palette) % len(palette)] for at, palette in enumerate(palettes)]


def _palette(outcome: Outcome) -> Sequence[str]:
    if outcome.policy.baseline:
        return _BASELINES
    return _WINDOW if outcome.policy.recall == "none" else _RECALL


def _lines(outcomes: Sequence[Outcome], colours: Sequence[str]) -> Iterator[str]:
    curves = [_curve(outcome) for outcome in outcomes]
    turns = max((len(outcome.turns) for outcome in outcomes), default=1)
    most = max((cents for curve in curves for _, cents in curve), default=0.0)
    step = _nice(most / 4)
    ticks = max(1, ceil(most / step))
    bottom = _PANEL - _BOTTOM
    wide, high = (_PLOT_RIGHT - _PLOT_LEFT) / max(turns, 1), (bottom - _TOP) / (ticks * step)
    for tick in range(ticks + 1):
        at = bottom - tick * step * high
        yield f'<path d="M{_PLOT_LEFT} {at:.1f}H{_PLOT_RIGHT}" stroke="#e5e7eb"/>'
        yield _text(_PLOT_LEFT - 8, at + 4, f"{tick * step:.3g}", "s", "end")
    yield _text(_PLOT_LEFT, bottom + 18, "turn 1", "s")
    yield _text(_PLOT_RIGHT, bottom + 18, f"turn {turns:,}", "s", "end")
    for curve, colour, outcome in zip(curves, colours, outcomes, strict=True):
        points = " ".join(f"{_PLOT_LEFT + turn * wide:.1f},{bottom - cents * high:.1f}" for turn, cents in curve)
        dash = ' stroke-dasharray="5 3"' if outcome.policy.baseline else ""
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'


def _curve(outcome: Outcome) -> list[tuple[float, float]]:
    """Mean cents of a turn, over some neighbouring turns of all threads."""
    turns = outcome.turns
    size = max(1, -(-len(turns) // _BUCKETS))
    curve = []
    for start in range(0, len(turns), size):
        some = turns[start : start + size]
        if count := sum(turn.count for turn in some):
            curve.append((start + len(some) / 2, 100 * sum(turn.cost_usd for turn in some) / count))
    return curve


def _nice(step: float) -> float:
    """The next larger of 1, 2, 5, 10, …"""
    if step <= 0:
        return 1.0
    power = 10.0 ** floor(log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)


def _bars(outcomes: Sequence[Outcome], colours: Sequence[str]) -> Iterator[str]:
    room = (_PANEL - _BOTTOM - _TOP) / max(len(outcomes), 1)
    for number, (outcome, colour) in enumerate(zip(outcomes, colours, strict=True)):
        middle = _TOP + room * (number + 0.5)
        left, length = _NAMES_RIGHT + 8, max(1.0, (_BARS_RIGHT - _NAMES_RIGHT - 8) * outcome.cache_read_share)
        yield _text(_NAMES_RIGHT, middle + 4, outcome.policy.name, "", "end")
        yield f'<rect x="{left}" y="{middle - 6:.1f}" width="{length:.1f}" height="12" fill="{colour}"/>'
        yield _text(left + length + 4, middle + 4, f"{outcome.cache_read_share:.0%}", "s")


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{escape(text)}</text>'
