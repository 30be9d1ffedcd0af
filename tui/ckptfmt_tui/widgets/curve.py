"""A metric over a run, drawn; the checkpoint that is looked at is marked."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from rich.text import Text
from textual.containers import Vertical
from textual.widgets import Static

from ckptfmt.wording import clean, value
from ckptfmt_tui.models.settings import Curve

if TYPE_CHECKING:
    from textual_plot import PlotWidget

_ROOM: Final = 0.06


class CurveView(Vertical):
    """A plot and the line below it. What draws plots is loaded with the first one."""

    DEFAULT_CSS: ClassVar[str] = """
    CurveView { padding: 0 1; background: $surface; }
    CurveView #legend-line { height: auto; }
    CurveView #plot { height: 1fr; }
    CurveView PlotWidget > .plot--axis, CurveView PlotWidget > .plot--tick { color: $text-muted; }
    CurveView PlotWidget > .plot--label { color: $foreground; }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's word
        super().__init__(Static(id="legend-line"), id=id)
        self._plot: PlotWidget | None = None

    async def tell(self, curve: Curve | None, here: str) -> None:
        """Draw another curve.

        Args:
            curve: None: nothing.
            here: the ref that is marked.
        """
        words = self.query_one("#legend-line", Static)
        if self._plot is not None:
            self._plot.display = curve is not None and len(curve.y) > 1
        if curve is None:
            words.update("")
            return
        words.update(self._words(curve, here))
        if len(curve.y) > 1:
            await self._draw(curve, here)

    async def _draw(self, curve: Curve, here: str) -> None:
        from textual_plot import HiResMode, PlotWidget  # noqa: PLC0415 - it loads numpy

        plot = self._plot
        if plot is None:
            plot = self._plot = PlotWidget(id="plot")
            plot.can_focus = False
            await self.mount(plot)
        plot.clear()
        plot.plot(list(curve.x), list(curve.y), line_style="cyan", hires_mode=HiResMode.BRAILLE)
        plot.scatter(list(curve.x), list(curve.y), marker="●", marker_style="bold cyan")
        at = [index for index, ref in enumerate(curve.refs) if ref == here]
        if at:
            marked = [curve.x[index] for index in at], [curve.y[index] for index in at]
            plot.scatter(*marked, marker="◆", marker_style="bold yellow")
        plot.set_xlimits(*_around(curve.x))
        plot.set_ylimits(*_around(curve.y))
        plot.set_xlabel(curve.axis)
        plot.set_ylabel("")

    @staticmethod
    def _words(curve: Curve, here: str) -> Text:
        best, worst = min(curve.y), max(curve.y)
        text = Text()
        text.append(clean(curve.metric), style="bold")
        text.append(
            f" over {len(curve.y):,} checkpoints of the run" if len(curve.y) > 1 else " of this checkpoint alone"
        )
        lowest, highest = (curve.refs[curve.y.index(each)].rpartition("/")[2] for each in (best, worst))
        if len(curve.y) > 1:
            text.append(f"\nlowest  {value(best)} in {clean(lowest)}\nhighest {value(worst)} in {clean(highest)}")
        if here in curve.refs:
            text.append("\n◆ ", style="bold yellow")
            text.append(f"here {value(curve.y[curve.refs.index(here)])}")
        return text


def _around(values: tuple[float, ...]) -> tuple[float, float]:
    """Limits with some room on both sides."""
    low, high = min(values), max(values)
    room = (high - low) * _ROOM or abs(low) * _ROOM or 1.0
    return low - room, high + room
