"""`ckptfmt rm`."""

from __future__ import annotations

import click

from ckptfmt.cli.errors import print_problem
from ckptfmt.cli.session import Session
from ckptfmt.cli.verb import REF, verb
from ckptfmt.errors import CkptfmtError
from ckptfmt.problems import problem_of


@verb("rm", example="ckptfmt rm runs/exp1/stage-2\nckptfmt rm runs/exp1/stage-1 runs/exp1/stage-2")
@click.argument("refs", type=REF, nargs=-1, required=True, metavar="REF...")
def command(session: Session, refs: tuple[str, ...]) -> int:
    """Drop names; their histories stay.

    No bytes are freed, and 'ckptfmt rollback' brings a name back. Of several, one that cannot be dropped does not keep
    the others.
    """
    dropped, problems = [], []
    with session.store() as store:
        for ref in dict.fromkeys(refs):
            try:
                dropped.append(store.drop(ref))
            except CkptfmtError as error:
                if len(refs) == 1:
                    raise
                problems.append(problem_of(error))
    many = {"dropped": dropped, "failed": [problem.as_document() for problem in problems]}
    session.give(dropped[0] if len(refs) == 1 else many, lambda: [f"dropped {each.ref}" for each in dropped])
    for each in dropped:
        if each.generation > 1:
            session.note(f"'ckptfmt rollback {each.ref}@{each.generation - 1}' undoes it")
    for problem in problems:
        if not session.as_json:
            print_problem(problem)
    return max((problem.exit_code for problem in problems), default=0)
