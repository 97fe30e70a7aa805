"""Pictures of results, with matplotlib, which is loaded only here and only when a picture is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhost_user.bench.units import show_rate

if TYPE_CHECKING:
    from vhost_user.bench.measure import Measurement

OURS = "#3465a4"
PEER = "#999999"


class PlotError(Exception):
    """The picture cannot be drawn; the message says what to do."""


def require_matplotlib() -> None:
    """Raise PlotError when matplotlib is not installed."""
    try:
        import matplotlib as mpl  # noqa: PLC0415  # half a second, and only with the extra
    except ImportError:
        raise PlotError("drawing needs matplotlib: pip install 'vhost-user[plot]'") from None
    mpl.use("Agg")


def _save(figure: Any, path: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415  # see require_matplotlib

    # No date, no program version, no random names inside: the same results give the same file.
    metadata = {".svg": {"Date": None}, ".png": {"Software": None}}.get(path.suffix)
    try:
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vhost-user"}):
            figure.savefig(path, dpi=110, metadata=metadata)
    except (OSError, ValueError) as error:
        raise PlotError(f"{path}: {error}") from error


def plot_latency(measurement: Measurement, path: Path) -> None:
    """Draw the share of requests that took at most so long, the tail stretched out. Raises PlotError."""
    require_matplotlib()
    from matplotlib.figure import Figure  # noqa: PLC0415  # see require_matplotlib

    histogram, total = measurement.result.histogram, measurement.result.requests
    times, slower, seen = [], [], 0
    for limit in sorted(histogram):
        seen += histogram[limit]
        times.append(limit / 1000)
        slower.append(max(1 - seen / total, 0.5 / total))
    figure: Any = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.step(times, slower, where="post", color=OURS)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("latency (µs)")
    axes.set_ylabel("share of requests that took longer")
    ticks = [limit for limit in (0.5, 0.1, 0.01, 0.001, 0.0001, 0.00001) if limit >= 0.5 / total]
    axes.set_yticks(ticks, [f"p{100 * (1 - limit):g}" for limit in ticks])
    axes.grid(alpha=0.3)
    axes.set_title(
        f"{measurement.load}\n{show_rate(measurement.result.requests_per_second)} requests/s", fontsize=10
    )
    _save(figure, path)


def plot_bars(
    panels: Sequence[tuple[str, Mapping[str, tuple[float, float, float, bool]]]], path: Path, *, title: str
) -> None:
    """Draw panels of horizontal bars: label → (value, lowest, highest, whether it is ours).

    Raises PlotError.
    """
    require_matplotlib()
    from matplotlib.figure import Figure  # noqa: PLC0415  # see require_matplotlib

    heights = [max(1, len(bars)) for _, bars in panels]
    figure: Any = Figure(
        figsize=(8, 0.9 + sum(0.62 + 0.3 * height for height in heights)), layout="constrained"
    )
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[height + 1 for height in heights])
    for axes, (name, bars) in zip(grid[:, 0], panels, strict=True):
        labels = list(bars)
        values = [bars[label][0] for label in labels]
        low = [max(0.0, bars[label][0] - bars[label][1]) for label in labels]
        high = [max(0.0, bars[label][2] - bars[label][0]) for label in labels]
        colours = [OURS if bars[label][3] else PEER for label in labels]
        axes.barh(labels, values, xerr=(low, high), color=colours, ecolor="#333333", capsize=2, height=0.7)
        axes.invert_yaxis()
        axes.set_title(name, fontsize=9, loc="left")
        axes.tick_params(labelsize=8)
        axes.margins(x=0.14)
        axes.spines[["top", "right"]].set_visible(False)
        for row, (value, above) in enumerate(zip(values, high, strict=True)):
            place = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "fontsize": 7}
            axes.annotate(f"{value:.3g}", (value + above, row), **place)
    _save(figure, path)
