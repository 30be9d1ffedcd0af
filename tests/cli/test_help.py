from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from ckptfmt.cli.app import program
from ckptfmt.cli.table import VERBS
from ckptfmt.cli.verb import Verb, VerbGroup
from tests.cli.made import Shell

ROOT = Path(__file__).resolve().parents[2]
LIGHT_ONLY = ("numpy", "torch", "rich", "msgspec", "blake3", "xxhash", "zstandard", "safetensors", "huggingface_hub")
VERBS_OF_THE_CONTRACT = {
    *("init", "import", "ls", "show", "log", "restore", "verify", "base", "bind", "diff"),
    *("rm", "rename", "tag", "pin", "rollback", "prune", "gc", "fsck", "stats", "demo", "scan", "cleanup"),
}


def every_command() -> list[tuple[str, Verb | VerbGroup]]:
    context = click.Context(program, info_name="ckptfmt")
    found: list[tuple[str, Verb | VerbGroup]] = []
    for name in VERBS:
        command = program.get_command(context, name)
        assert isinstance(command, Verb | VerbGroup), name
        found.append((name, command))
        if isinstance(command, VerbGroup):
            for inner, each in command.commands.items():
                assert isinstance(each, Verb)
                found.append((f"{name} {inner}", each))
    return found


COMMANDS = every_command()
IDS = [name for name, _ in COMMANDS]


def test_every_verb_of_the_contract_is_there() -> None:
    assert set(VERBS) >= VERBS_OF_THE_CONTRACT
    assert {"base add", "base ls", "base verify", "base keep", "base rm"} <= set(IDS)


@pytest.mark.parametrize("name", VERBS)
def test_the_table_agrees_with_the_commands(name: str) -> None:
    command = dict(COMMANDS)[name]
    assert command.name == name
    assert command.help is not None
    assert command.help.splitlines()[0] == VERBS[name].summary


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=IDS)
def test_the_help_of_a_verb_ends_with_examples(sh: Shell, name: str, command: Verb | VerbGroup) -> None:
    ran = sh.ok(*name.split(), "--help")
    assert "Example" in ran.out
    for line in command.example.splitlines():
        assert line in ran.out, "an example stands on a line of its own, unwrapped"
        assert line.startswith(f"ckptfmt {name}")
    assert ("--json" in ran.out) is isinstance(command, Verb)
    without_store = name in ("convert", "demo", "version", "completion") or isinstance(command, VerbGroup)
    assert ("--store" in ran.out) is not without_store


@pytest.mark.parametrize(("name", "command"), [*COMMANDS, ("", program)], ids=[*IDS, "ckptfmt"])
def test_the_examples_of_a_verb_parse(name: str, command: Verb | VerbGroup) -> None:
    for line in command.example.splitlines():
        words = shlex.split(line)
        assert words.pop(0) == "ckptfmt"
        parse(words)


def parse(words: list[str]) -> None:
    context = click.Context(program, info_name="ckptfmt")
    command: click.Command = program
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command = found
        assert name is not None
    command.make_context(command.name, words, parent=context)


def test_help_loads_next_to_nothing() -> None:
    statement = (
        "import sys\n"
        "from ckptfmt.cli.app import run\n"
        "assert run(['--help']) == 0\n"
        f"heavy = [name for name in {LIGHT_ONLY!r} if name in sys.modules]\n"
        "verbs = [name for name in sys.modules if name.startswith('ckptfmt.cli.verbs.')]\n"
        "import json\n"
        "print('LOADED', json.dumps([heavy, verbs, len(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, check=True, cwd=ROOT)
    heavy, verbs, modules = json.loads(done.stdout.rpartition("LOADED ")[2])
    assert (heavy, verbs) == ([], [])
    assert modules < 250


def test_help_is_quick() -> None:
    # The aim is 0.15 s; the bound leaves room for a machine that is busy with other tests.
    fastest = min(_seconds([sys.executable, "-c", "from ckptfmt.cli import main; main()", "--help"]) for _ in range(3))
    assert fastest < 1.0


def _seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return time.perf_counter() - began


def test_no_words_at_all_show_the_help(sh: Shell) -> None:
    assert sh.ok().out == sh.ok("--help").out == sh.ok("-h").out
    assert sh.ok("base").out == sh.ok("base", "--help").out


@pytest.mark.parametrize(
    ("words", "meant", "hint"),
    [
        (("imprt",), "'import'", "ckptfmt import --help"),
        (("veryfy",), "'verify'", "ckptfmt verify --help"),
        (("base", "ad"), "'add'", "ckptfmt base add --help"),
        (("zzzz",), None, "ckptfmt --help"),
    ],
)
def test_an_unknown_verb_names_the_nearest(sh: Shell, words: tuple[str, ...], meant: str | None, hint: str) -> None:
    ran = sh(*words)
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith(f"ckptfmt: error: no verb {words[-1]!r}")
    assert ("did you mean" in ran.err) is (meant is not None)
    assert (meant or "") in ran.err
    assert ran.err.endswith(f"hint: {hint}\n")


def test_versions(sh: Shell) -> None:
    ran = sh.ok("--version")
    assert ran.out.startswith("ckptfmt ")
    assert ran.out.split()[1] == sh.json("version")["version"]
    assert "torch" in sh.ok("version").out
