"""`ckptfmt convert`."""

from __future__ import annotations

from typing import Literal

import click

from ckptfmt.cli.session import Session
from ckptfmt.cli.verb import verb
from ckptfmt.cli.verbs.export import TOLERANCE_HELP, lines

EXAMPLE = """\
ckptfmt convert ./out/ckpt.pt ./gpt2-hf --to hf
ckptfmt convert ./finetuned ./adapter --to peft --base ./base --expect-root 4f0c93a1d2b37e55
ckptfmt convert ./adapter ./merged --to hf --base ./base --unverified-base"""


@verb("convert", example=EXAMPLE, store=False)
@click.argument("source", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--to", type=click.Choice(["hf", "peft", "universal"]), required=True, help="What is written.")
@click.option("--base", type=click.Path(), help="The base: for merging an adapter, and for factoring a full model.")
@click.option("--expect-root", metavar="ROOT", help="The root that the base must have, or at least 16 digits of it.")
@click.option("--unverified-base", is_flag=True, help="Take the base as it is; the result says that nobody checked it.")
@click.option("--adapter", metavar="NAME", help="Which of several adapters.")
@click.option("--tolerance", metavar="NUMBER|exact", help=TOLERANCE_HELP)
def command(  # noqa: PLR0917 - click calls it by name
    session: Session,
    source: str,
    out: str,
    to: Literal["hf", "peft", "universal"],
    base: str | None,
    expect_root: str | None,
    unverified_base: bool,  # noqa: FBT001
    adapter: str | None,
    tolerance: str | None,
) -> None:
    """Convert a checkpoint that lies in a directory, without a store.

    SOURCE is a checkpoint's directory or its one file. OUT must not exist or be empty; it appears whole.

    What can be converted into what is as in ckptfmt export. Where a base is needed, its root must be the one that is
    expected; without one to expect, say --unverified-base.
    """
    from ckptfmt.api.converting import convert

    with session.progress() as progress:
        report = convert(
            source,
            out,
            to=to,
            base=base,
            expect_root=expect_root,
            unverified_base=unverified_base,
            adapter=adapter,
            tolerance=tolerance,
            progress=progress,
        )
    session.give(report, lambda: lines(report))
