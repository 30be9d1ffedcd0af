"""`ckptfmt base`: add, ls, verify, keep, rm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from ckptfmt.cli.output import Line, Styled
from ckptfmt.cli.session import Session
from ckptfmt.cli.text import facts, table
from ckptfmt.cli.verb import BASE, VerbGroup, verb
from ckptfmt.errors import EXIT_CODES
from ckptfmt.wording import count, short, size

if TYPE_CHECKING:
    from ckptfmt.api.results import BaseReport, BaseVerified

_MOST_NAMED = 20


@click.group(
    "base",
    cls=VerbGroup,
    example="ckptfmt base add llama-3.1-8b /models/Llama-3.1-8B\nckptfmt base ls",
    subcommand_metavar="VERB [ARGUMENTS]...",
    invoke_without_command=True,
)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Record base models, compare them, copy them in, drop them."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


ADD_EXAMPLE = """\
ckptfmt base add llama-3.1-8b /models/Llama-3.1-8B
ckptfmt base add llama-3.1-8b meta-llama/Llama-3.1-8B --revision 0e9e39f --keep copy"""


@verb("add", group=command, example=ADD_EXAMPLE)
@click.argument("name")
@click.argument("source", metavar="PATH_OR_REPO")
@click.option("--revision", metavar="R", help="Of a Hub repository: a branch, a tag or a commit.")
@click.option(
    "--keep",
    type=click.Choice(["copy", "reference"]),
    default="reference",
    show_default=True,
    help="reference: its files stay where they are; copy: the store takes them in too.",
)
def add(session: Session, name: str, source: str, revision: str | None, keep: Literal["copy", "reference"]) -> None:
    """Record a base: its files, their SHA-256, its tensors and its root.

    PATH_OR_REPO is a directory, or a Hub repository that is in the local cache.
    """
    with session.store() as store, session.progress() as progress:
        report = store.add_base(name, source, revision=revision, keep=keep, progress=progress)
    session.give(report, lambda: base_lines(report))
    if report.replaced is not None:
        session.note(
            Styled(
                f"base {name!r} stood for other content until now: what was bound to that goes on needing it; "
                f"'ckptfmt rollback bases/{name}@{report.replaced}' returns to it",
                "yellow",
            )
        )


@verb("ls", group=command, example="ckptfmt base ls")
def ls(session: Session) -> None:
    """List the bases."""
    with session.store() as store:
        bases = store.list_bases()
    session.give(bases, lambda: list_lines(bases))
    if not bases:
        session.note("no bases; 'ckptfmt base add NAME PATH_OR_REPO' records one")


@verb("verify", group=command, example="ckptfmt base verify llama-3.1-8b\nckptfmt base verify llama-3.1-8b --full")
@click.argument("name", type=BASE)
@click.option("--path", type=click.Path(), metavar="P", help="Compare the files in this directory instead.")
@click.option("--full", is_flag=True, help="Read every file, also where nothing changed since the last look.")
def verify(session: Session, name: str, path: str | None, full: bool) -> int:  # noqa: FBT001
    """Compare a base's files with its record.

    Instant when nothing changed since the last look. Ends with 3 if a file differs.
    """
    with session.store() as store, session.progress() as progress:
        report = store.verify_base(name, path=path, full=full, progress=progress)
    session.give(report, lambda: verified_lines(report))
    return 0 if report.ok else EXIT_CODES["base-mismatch"]


@verb("keep", group=command, example="ckptfmt base keep llama-3.1-8b")
@click.argument("name", type=BASE)
def keep_base(session: Session, name: str) -> None:
    """Copy a referenced base into the store."""
    with session.store() as store, session.progress() as progress:
        report = store.keep_base(name, progress=progress)
    told = f"{size(report.bytes)} copied in" if report.bytes else "the store has all of it already"
    session.give(report, lambda: [f"base {report.name!r}: {told}"])


@verb("rm", group=command, example="ckptfmt base rm llama-3.1-8b")
@click.argument("name", type=BASE)
def rm(session: Session, name: str) -> None:
    """Drop a base; refused while a checkpoint needs it."""
    with session.store() as store:
        changed = store.drop_base(name)
    session.give(changed, lambda: [f"dropped base {name!r}"])


def base_lines(base: BaseReport) -> list[Line]:
    """One base as it was recorded."""
    repo = f"{base.repo} at {base.revision}" if base.repo and base.revision else base.repo or ""
    kept = (
        "the store holds all of it" if base.kept else "its files stay where they are; 'ckptfmt base keep' copies them"
    )
    told: list[Line] = [Styled(f"base {base.name!r}", "bold")]
    return told + facts(
        [
            ("record", base.record),
            ("root", base.root),
            ("holds", f"{count(base.files, 'file')}, {count(base.tensors, 'tensor')}, {size(base.bytes)}"),
            ("repo", repo),
            ("path", base.path or ""),
            ("kept", kept),
        ]
    )


def list_lines(bases: list[BaseReport]) -> list[Line]:
    """One row a base."""
    rows = [
        (
            base.name,
            short(base.root),
            f"{base.files:,}",
            f"{base.tensors:,}",
            size(base.bytes),
            "copy" if base.kept else "reference",
            base.repo or base.path or "",
        )
        for base in bases
    ]
    header = ("NAME", "ROOT", "FILES", "TENSORS", "SIZE", "KEPT AS", "FROM")
    return table(header, rows, right=("FILES", "TENSORS", "SIZE"))


def verified_lines(report: BaseVerified) -> list[Line]:
    """Whether a base's files are those that were recorded."""
    how = "nothing changed since the last look" if report.how == "cached" else "every file read"
    published = f", {count(report.published, 'file')} with the Hub's SHA-256 too" if report.published else ""
    if report.ok:
        return [Styled(f"base {report.name!r} in {report.path} is what was recorded ({how}{published})", "green")]
    told: list[Line] = [Styled(f"base {report.name!r} in {report.path} is NOT what was recorded ({how})", "red")]
    told += [f"  differs: {name}" for name in report.mismatched[:_MOST_NAMED]]
    more = len(report.mismatched) - _MOST_NAMED
    return [*told, f"  and {more} more"] if more > 0 else told
