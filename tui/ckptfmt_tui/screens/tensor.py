"""One tensor: figures of its elements, a histogram, and where its bytes live."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Static

from ckptfmt.api.results_tensor import TensorLook
from ckptfmt.format.manifest import Tensor
from ckptfmt.wording import clean, shape_words
from ckptfmt_tui.jobs.requests import LookAt
from ckptfmt_tui.jobs.running import RunningJob
from ckptfmt_tui.models.looks import figures_text, histogram_text, whereabouts_text
from ckptfmt_tui.screens import deeds
from ckptfmt_tui.screens.page import Page
from ckptfmt_tui.widgets.job_bar import progress_words
from ckptfmt_tui.widgets.standing import stands

_BESIDE_FROM = 120
"""Columns of the terminal from which on the two halves stand side by side."""
_AROUND = 17
"""Lines of the terminal that the histogram cannot have."""


class TensorPage(Page):
    """A tensor, read whole by a job.

    Args:
        ref: the checkpoint, as it is called.
        exact: the same with its generation, or the id of its manifest: what stays the same whatever happens.
        at: place of the tensor in the manifest.
        tensor: what the manifest says of it.
    """

    PAGE = "tensor"
    TAB = "store"
    CSS: ClassVar[str] = """
    TensorPage #head { height: auto; padding: 0 1; background: $panel; }
    TensorPage #halves { height: 1fr; background: $surface; }
    TensorPage #halves > VerticalScroll { padding: 1 2; width: 1fr; }
    TensorPage.stacked #halves { layout: vertical; }
    TensorPage.stacked #halves > VerticalScroll { height: auto; padding: 1 1 0 1; }
    TensorPage.stacked #halves { overflow-y: auto; }
    """

    def __init__(self, ref: str, exact: str, at: int, tensor: Tensor) -> None:
        super().__init__()
        self._ref = ref
        self._exact = exact
        self._at = at
        self._tensor = tensor
        self._logarithmic = False
        self.job: RunningJob | None = None

    def body(self) -> ComposeResult:
        """See `Page.body`."""
        yield Static(self._head(), id="head")
        with Horizontal(id="halves"):
            with VerticalScroll(id="left"):
                yield Static("reading it …", id="figures")
            with VerticalScroll(id="right"):
                yield Static(id="places")

    def begin(self) -> None:
        """Read it."""
        self.query_one("#left").focus()
        request = LookAt(self._exact, self._at)
        self.tell_command(self.ui.command_of(LookAt(self._ref, self._at)))
        self.job = self.ui.start(request, f"look at {self._tensor.name}", then=self._read)

    def _head(self) -> Text:
        tensor = self._tensor
        text = Text()
        text.append(clean(tensor.name), style="bold")
        part = f" of {tensor.part}" if tensor.part else ""
        text.append(f"  {tensor.dtype} {shape_words(tensor.shape)}  {tensor.role}{clean(part)}  in {clean(self._ref)}")
        return text

    @property
    def look(self) -> TensorLook | None:
        """What was found."""
        result = self.job.result if self.job is not None else None
        return result if isinstance(result, TensorLook) else None

    def on_resize(self) -> None:
        """Set the halves side by side where there is room."""
        self.set_class(self.size.width < _BESIDE_FROM, "stacked")
        self._draw()

    def jobs_changed(self) -> None:
        """See `Page.jobs_changed`."""
        super().jobs_changed()
        if self.job is not None and not self.job.over:
            self.query_one("#figures", Static).update(Text(progress_words(self.job) or "reading it …", style="dim"))

    def _read(self, job: RunningJob) -> None:
        if not stands(self):
            return
        if job.problem is not None:
            told = "\n".join(clean(line) for line in job.problem.lines())
            self.query_one("#figures", Static).update(Text(told, style="red"))
            return
        self._draw()

    def _draw(self) -> None:
        look = self.look
        if look is None:
            return
        stacked = self.has_class("stacked")
        room = self.size.width - 4 if stacked else self.size.width // 2 - 6
        figures = figures_text(look)
        if look.figures is not None and look.figures.counts:
            figures.append("\n")
            lines = max(self.size.height - _AROUND, 10)
            figures.append_text(histogram_text(look.figures, max(room, 20), lines, logarithmic=self._logarithmic))
        self.query_one("#figures", Static).update(figures)
        self.query_one("#places", Static).update(whereabouts_text(look, room))

    def on_unmount(self) -> None:
        """Stop reading: nobody sees it any more."""
        if self.job is not None and not self.job.over:
            self.job.stop()

    def action_scale(self) -> None:
        """Logarithmic bars, or not."""
        self._logarithmic = not self._logarithmic
        self._draw()

    def action_verify(self) -> None:
        """Verify the whole checkpoint."""
        self.tell_command(deeds.verify(self.ui, [self._ref], self._ref))
