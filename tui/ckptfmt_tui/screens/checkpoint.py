"""One checkpoint: its manifest, tensors, files, settings, and its metrics over the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import ContentSwitcher, Static

from ckptfmt.api import Store
from ckptfmt.api.contents import Contents, Kept
from ckptfmt.api.results import Log, RefRow
from ckptfmt.format.manifest import File
from ckptfmt.wording import clean, count, ratio, shape_words, short, size, value
from ckptfmt_tui import commands
from ckptfmt_tui.keys import SECTIONS
from ckptfmt_tui.models.columns import Column, cut_left
from ckptfmt_tui.models.filters import fitting
from ckptfmt_tui.models.settings import Curve, Setting, curves, numbers_of, settings_rows
from ckptfmt_tui.models.tensors import FALLS, ORDERS, TensorList, texts_of
from ckptfmt_tui.reading import Answer
from ckptfmt_tui.screens import deeds
from ckptfmt_tui.screens.facts import info_text
from ckptfmt_tui.screens.page import Page
from ckptfmt_tui.widgets.curve import CurveView
from ckptfmt_tui.widgets.sections import Sections
from ckptfmt_tui.widgets.table import Cell, VirtualTable

TENSORS: Final = (
    Column("name", "NAME", 42, 0, grows=True),
    Column("role", "ROLE", 9, 6),
    Column("dtype", "DTYPE", 8, 2),
    Column("shape", "SHAPE", 13, 1),
    Column("size", "SIZE", 9, 3, "right"),
    Column("stored", "STORED", 9, 4, "right"),
    Column("encoding", "ENCODING", 8, 5),
    Column("ratio", "RATIO", 7, 7, "right"),
)
FILES: Final = (
    Column("path", "FILE", 28, 0, grows=True),
    Column("size", "SIZE", 9, 1, "right"),
    Column("container", "CONTAINER", 12, 2),
    Column("reason", "WHY KEPT WHOLE", 26, 3, grows=True),
)
SETTINGS: Final = (
    Column("group", "OF", 18, 2),
    Column("key", "SETTING", 22, 0, grows=True),
    Column("told", "VALUE", 24, 1, grows=True),
)
METRICS: Final = (Column("name", "METRIC", 18, 0, grows=True), Column("value", "HERE", 10, 1, "right"))
_UNKNOWN: Final = "…"


class CheckpointPage(Page):
    """What a checkpoint holds, and how it is stored.

    Args:
        ref: a name, a name and a generation, or a manifest's id.
    """

    PAGE = "checkpoint"
    TAB = "store"
    CSS: ClassVar[str] = """
    CheckpointPage #head { height: 1; padding: 0 1; background: $surface; text-wrap: nowrap; text-overflow: ellipsis; }
    CheckpointPage #parts { height: 1fr; }
    CheckpointPage #info { padding: 1 2; background: $surface; }
    CheckpointPage #metrics { width: 2fr; max-width: 48; }
    CheckpointPage #curve { width: 3fr; }
    """

    def __init__(self, ref: str) -> None:
        super().__init__()
        self.ref = ref
        self.held: Contents | None = None
        self.kept: Kept | None = None
        self.list: TensorList | None = None
        self._log: Log | None = None
        self._order = "file"
        self._turned = False
        self._curves: dict[str, Curve] = {}
        self._gone = False
        self._told = False

    def body(self) -> ComposeResult:
        """See `Page.body`."""
        yield Static(Text(self.ref, style="bold"), id="head")
        yield Sections(SECTIONS, "info")
        with ContentSwitcher(initial="info", id="parts"):
            with VerticalScroll(id="info"):
                yield Static("reading …", id="facts")
            yield VirtualTable(TENSORS, self._tensor_cell, empty="reading …", sorted_by="", id="tensors")
            yield VirtualTable(FILES, _file_cell, empty="no files", id="files")
            yield VirtualTable(SETTINGS, _setting_cell, empty="no settings were found", id="settings")
            with Horizontal(id="curves"):
                yield VirtualTable(METRICS, self._metric_cell, empty="no metrics were found", id="metrics")
                yield CurveView(id="curve")

    def begin(self) -> None:
        """Read it."""
        self.query_one("#info").focus()
        self.tell_command(commands.line(self.ui.store_path, "show", [self.ref]))
        self.ask(lambda store: store.contents(self.ref), self._read)

    @property
    def sections(self) -> Sections:
        """The parts."""
        return self.query_one(Sections)

    def table(self, name: str) -> VirtualTable[object]:
        """One of the tables."""
        return self.query_one(f"#{name}", VirtualTable)

    def store_changed(self) -> None:
        """The ref may stand for something else now, or be gone."""
        self.ask(lambda store: store.contents(self.ref), self._read_again)

    def _read_again(self, answer: Answer[Contents]) -> None:
        if answer.value is None:
            self._gone = True
            self._tell_head()
        elif self.held is None or answer.value.id != self.held.id:
            self._read(answer)
        else:
            self._gone = False
            self.held = answer.value
            self._tell_head()
            self._ask_rest(answer.value)

    def _read(self, answer: Answer[Contents]) -> None:
        if answer.value is None:
            if answer.problem is not None:
                lines = "\n".join(clean(line) for line in answer.problem.lines())
                self.query_one("#facts", Static).update(Text(lines, style="red"))
                self.table("tensors").show_rows((), empty=answer.problem.message)
                if not self._told:
                    self._told = True
                    self.ui.tell_problem(answer.problem)
            return
        self.held, self.kept, self._gone = answer.value, None, False
        manifest = answer.value.manifest
        self.list = TensorList(manifest)
        self.sections.count("tensors", f"{len(manifest.tensors):,}")
        self.sections.count("files", f"{len(manifest.files):,}")
        self._draw_tensors()
        self.table("files").show_rows(manifest.files)
        rows = settings_rows(manifest)
        self.sections.count("settings", f"{len(rows):,}")
        self.table("settings").show_rows(rows)
        self._show_metrics()
        self._tell_head()
        self._draw_facts()
        self._ask_rest(answer.value)

    def _ask_rest(self, held: Contents) -> None:
        self.ask(lambda store: store.log(self.ref), self._logged)
        self.ask(lambda store: _kept(store, held), self._learnt)
        run = self.ref.partition("@")[0].rpartition("/")[0]
        self.ask(lambda store: _of_run(store, run), self._compared)

    def _learnt(self, answer: Answer[tuple[Contents, Kept, list[str]]]) -> None:
        if answer.value is None:
            if answer.problem is not None and not self._told:
                self._told = True
                self.ui.tell_problem(answer.problem)
            return
        held, kept, texts = answer.value
        if self.list is None or self.held is None or held.id != self.held.id:
            return  # The name has moved on meanwhile; what it stands for now is asked for, too.
        self.kept = kept
        self.list.learn(kept.tensors, texts)
        self._draw_tensors(cursor=self._tensor)
        self._tell_head()
        self._draw_facts()

    def _logged(self, answer: Answer[Log]) -> None:
        self._log = answer.value
        self._draw_facts()

    def _compared(self, answer: Answer[list[RefRow]]) -> None:
        self._curves = curves(answer.value or ())
        self._show_metrics()

    def _draw_facts(self) -> None:
        if self.held is not None:
            self.query_one("#facts", Static).update(info_text(self.held, self.kept, self._log))

    def _tell_head(self) -> None:
        held = self.held
        head = Text()
        at = f"@{held.generation}" if held and held.generation and "@" not in self.ref else ""
        head.append(f"{clean(self.ref)}{at}", style="bold")
        if self._gone:
            head.append("  no longer stands: what is shown is what it was", style="bold red")
        if held is not None:
            head.append(f"  {held.manifest.layout}  {short(held.id)}", style="dim")
        if self.kept is not None:
            head.append(f"  {size(self.kept.logical_bytes)} in {size(self.kept.stored_bytes)}")
            head.append(f"  {ratio(self.kept.logical_bytes, self.kept.stored_bytes)}", style="green")
        self.query_one("#head", Static).update(head)

    # The parts

    async def action_section(self, steps: int) -> None:
        """Go to a part beside the present one."""
        await self.action_show(self.sections.beside(steps))

    @on(Sections.Chosen)
    async def _chosen(self, event: Sections.Chosen) -> None:
        await self.action_show(event.part)

    async def action_show(self, part: str) -> None:
        """Show a part."""
        self.sections.choose(part)
        self.query_one("#parts", ContentSwitcher).current = part
        self.focus_list()
        options = ["--tensors"] if part == "tensors" else []
        self.tell_command(commands.line(self.ui.store_path, "show", [self.ref], options))
        await self._metric_moved()

    def focus_list(self) -> None:
        """See `Page.focus_list`."""
        part = self.sections.chosen
        self.query_one("#metrics" if part == "curves" else f"#{part}").focus()

    def filtered(self, words: str) -> None:
        """Filter tensors, files and settings alike; from another part, go to the tensors."""
        if self.held is None:
            return
        if words and self.sections.chosen in ("info", "curves"):
            self.sections.choose("tensors")
            self.query_one("#parts", ContentSwitcher).current = "tensors"
        self._draw_tensors()
        self.table("files").show_rows(_files_fitting(self.held.manifest.files, words), empty="nothing fits the filter")
        rows = fitting(settings_rows(self.held.manifest), words, lambda row: f"{row.group} {row.key} {row.told}")
        self.table("settings").show_rows(rows, empty="nothing fits the filter" if words.strip() else None)

    # Tensors

    @property
    def _tensor(self) -> int | None:
        current = self.table("tensors").current
        return current if isinstance(current, int) else None

    def _draw_tensors(self, cursor: int | None = None) -> None:
        """Show the rows anew; with `cursor`, keep it on that tensor."""
        if self.list is None:
            return
        rows = self.list.rows(self._order, turned=self._turned, words=self.filter_words)
        table = self.table("tensors")
        falls = (self._order in FALLS) is not self._turned
        table.sorted_by = "" if self._order == "file" else f"{'-' if falls else ''}{self._order}"
        at = rows.index(cursor) if cursor is not None and cursor in rows else 0
        table.show_rows(rows, cursor=at, empty="nothing fits the filter" if self.filter_words else "no tensors")

    def _tensor_cell(self, at: int, column: Column, room: int) -> Cell:
        listed = self.list
        if listed is None:
            return ""
        tensor = listed.tensors[at]
        if column.key == "name":
            return cut_left(clean(tensor.name), room)
        if column.key == "role":
            return tensor.role
        if column.key == "dtype":
            return tensor.dtype
        if column.key == "shape":
            return shape_words(tensor.shape)
        if column.key == "size":
            return size(listed.size(at))
        encoding = listed.encoding(at)
        if encoding is None:
            return Text(_UNKNOWN, style="dim")
        if column.key == "encoding":
            return Text("in base", style="yellow") if encoding == "base" else encoding
        if column.key == "stored":
            return "" if encoding == "base" else size(listed.stored(at) or 0)
        times = listed.ratio(at)
        return "" if times is None else ">1000x" if times >= 1000 else f"{times:.1f}x"

    def action_order(self) -> None:
        """The next order."""
        self._order = ORDERS[(ORDERS.index(self._order) + 1) % len(ORDERS)]
        self._turned = False
        self.app.notify("as in the file" if self._order == "file" else f"by {self._order}", timeout=2)
        self._draw_tensors()

    def action_turn(self) -> None:
        """The other way around."""
        self._turned = not self._turned
        self._draw_tensors()

    @on(VirtualTable.HeaderPicked, "#tensors")
    def _header(self, event: VirtualTable.HeaderPicked) -> None:
        if event.key in ORDERS:
            self._turned = not self._turned if self._order == event.key else False
            self._order = event.key
            self._draw_tensors()

    @on(VirtualTable.Picked, "#tensors")
    def _picked(self) -> None:
        self.action_look()

    def action_look(self) -> None:
        """Look at the tensor under the cursor."""
        at = self._tensor
        if self.sections.chosen != "tensors" or at is None or self.held is None:
            return
        from ckptfmt_tui.screens.tensor import TensorPage  # noqa: PLC0415 - loaded when it is first opened

        held = self.held
        exact = f"{held.ref}@{held.generation}" if held.ref else held.id
        self.app.push_screen(TensorPage(self.ref, exact, at, held.manifest.tensors[at]))

    # Metrics

    def _show_metrics(self) -> None:
        if self.held is None:
            return
        here = dict(numbers_of(self.held.manifest.metrics))
        names = [*here, *(name for name in self._curves if name not in here)]
        self.sections.count("curves", f"{len(names):,}" if names else "")
        table = self.table("metrics")
        table.show_rows([(name, here.get(name)) for name in names], cursor=table.cursor)

    def _metric_cell(self, row: tuple[str, float | None], column: Column, room: int) -> Cell:
        return clean(row[0]) if column.key == "name" else "" if row[1] is None else value(row[1])

    @on(VirtualTable.Moved, "#metrics")
    async def _metric_moved(self) -> None:
        if self.sections.chosen != "curves":  # What draws is loaded when it is first looked at.
            return
        row = self.table("metrics").current
        name = row[0] if isinstance(row, tuple) else None
        here = self.ref.partition("@")[0]
        await self.query_one(CurveView).tell(self._curves.get(name) if name else None, here)

    # Deeds

    def action_verify(self) -> None:
        """Verify it."""
        self.tell_command(deeds.verify(self.ui, [self.ref], self.ref))

    def action_merge(self) -> None:
        """Merge it."""
        deeds.merge(self.ui, self.ref)

    def action_restore(self) -> None:
        """Restore it."""
        deeds.restore(self.ui, self.ref)


def _kept(store: Store, held: Contents) -> tuple[Contents, Kept, list[str]]:
    kept = store.kept(held)
    return held, kept, texts_of(held.manifest, kept.tensors)


def _of_run(store: Store, run: str) -> list[RefRow]:
    """The checkpoints of a run: those beside each other. What cannot be read is told of elsewhere."""
    rows = store.list_refs(run or None, damaged=lambda name, error: None)
    return [row for row in rows if row.ref.rpartition("/")[0] == run]


def _files_fitting(files: tuple[File, ...], words: str) -> Sequence[File]:
    return fitting(files, words, lambda file: f"{file.path} {file.container} {file.reason or ''}")


def _file_cell(file: File, column: Column, room: int) -> Cell:
    if column.key == "path":
        return clean(file.path)
    if column.key == "size":
        return size(file.size)
    if column.key == "container":
        return Text("damaged", style="red") if file.damaged else file.container
    return clean(file.reason or (count(len(file.extents), "extent") if file.extents else ""))


def _setting_cell(row: Setting, column: Column, room: int) -> Cell:
    return Text(clean(row.group), style="dim") if column.key == "group" else clean(getattr(row, column.key))
