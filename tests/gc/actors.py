"""Hosts that share a store: importers that import, drop and re-import, and others that run gc, each a process.

python -m tests.gc.actors ROLE STORE PLACE NUMBER SECONDS: a cache of its own makes each a host of its own; what it
did it leaves in PLACE/report.json.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckptfmt.api import Store
from ckptfmt.errors import CkptfmtError
from ckptfmt.storage import durable
from tests.store import making

ELEMENTS = 1500
NAMES = 3
SHARED = 14
"""Tensors that all importers make their checkpoints of."""
PAUSE_SECONDS = 0.05
"""Between two runs of one host, for the others to do something."""
CHECKED = 6
"""An importer restores all that it published after each so-manieth step."""
DOCUMENTED = ("vanish again and again", "others were quicker, again and again", "nothing was freed")
"""What two hosts that are quicker, again and again, may make fail: nothing is lost, the same command is run again."""


@dataclass
class Told:
    """What an actor did: `standing` names with the content they have, `failures` that are documented, `wrong` not."""

    counts: Counter[str] = field(default_factory=Counter)
    standing: dict[str, dict[str, int]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def write(self, path: Path) -> None:
        told = {"counts": self.counts, "standing": self.standing, "failures": self.failures, "wrong": self.wrong}
        path.write_text(json.dumps(told))


class LinksOutOfTrash:
    """Counts what comes back from the trash, whoever brings it: shards apart from documents."""

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts

    def before(self, call: str, arguments: tuple[Any, ...]) -> None:
        return

    def after(self, call: str, arguments: tuple[Any, ...], result: object) -> None:
        if call == "link" and "/trash/" in str(arguments[0]):
            self._counts["brought_back"] += 1
            self._counts["shards_brought_back"] += ",shards," in str(arguments[0]) or "/shards," in str(arguments[0])


def write_content(directory: Path, content: dict[str, int]) -> Path:
    """A checkpoint of F32 tensors; a seed of 1000 and more is that of its last two digits, a little trained."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: ("F32", (ELEMENTS,), _values(seed)) for name, seed in content.items()}
    (directory / "model.safetensors").write_bytes(making.safetensors(tensors))
    (directory / "config.json").write_text('{"model_type":"llama"}')
    making.settle_times(directory)
    return directory


def _values(seed: int) -> bytes:
    values = bytearray(making.noise(seed % 100, ELEMENTS * 4))
    if seed >= 1000:
        step = seed // 100
        for index in range(0, len(values), 4):
            values[index] = (values[index] + step + index % 3) % 256
    return bytes(values)


class Importer:
    """Imports under names of its own, checks what it published, drops it, and imports it again."""

    def __init__(self, store: Path, place: Path, number: int, told: Told) -> None:
        self._store = store
        self._place = place
        self._random = random.Random(number)
        self._prefix = f"host{number}"
        self._told = told
        self._known: list[dict[str, int]] = []

    def run(self, until: float) -> None:
        step = 0
        with Store.open(self._store) as store:
            while time.monotonic() < until and not self._told.wrong:
                step += 1
                self._step(store)
                if step % CHECKED == 0:
                    self._check(store)
            self._check(store)

    def _step(self, store: Store) -> None:
        name = f"{self._prefix}/{self._random.randrange(NAMES)}"
        if name in self._told.standing and self._random.random() < 0.6:
            store.drop(name)
            self._known.append(self._told.standing.pop(name))
            self._told.counts["drops"] += 1
            return
        again = bool(self._known) and self._random.random() < 0.5
        content = self._known.pop(self._random.randrange(len(self._known))) if again else self._content()
        parents = [each for each in self._told.standing if each != name]
        parent = self._random.choice(parents) if parents and self._random.random() < 0.4 else None
        source = write_content(self._place / "source", content)
        try:
            store.import_path(source, name=name, parent=parent, jobs=1, effort="balanced")
        except CkptfmtError as error:
            self._fail("import", error)
            return
        finally:
            shutil.rmtree(source)
        self._told.standing[name] = content
        self._told.counts["imports"] += 1
        self._told.counts["re-imports"] += again
        self._told.counts["with a parent"] += parent is not None

    def _content(self) -> dict[str, int]:
        """Two or three tensors that others may have too, and one trained a little, stored against its likes."""
        content = {name: self._random.randrange(SHARED) for name in "abc"[: self._random.randint(2, 3)]}
        content["d"] = self._random.randrange(SHARED) + 100 * self._random.randrange(10, 16)
        return content

    def _check(self, store: Store) -> None:
        for name, content in self._told.standing.items():
            problem = restored_other(store, name, content, self._place / "check")
            self._told.counts["checks"] += 1
            if problem:
                self._told.wrong.append(problem)

    def _fail(self, what: str, error: CkptfmtError) -> None:
        documented = any(words in error.message for words in DOCUMENTED)
        (self._told.failures if documented else self._told.wrong).append(f"{what}: {error.code}: {error.message}")


def restored_other(store: Store, name: str, content: dict[str, int], place: Path) -> str | None:
    """Restore a name and compare; what is wrong, or None."""
    source = write_content(place / "expected", content)
    try:
        if making.restored(store, name, place / "restored") != making.tree_of(source):
            return f"{name}: something else came back"
    except CkptfmtError as error:
        return f"{name}: {error.code}: {error.message}"
    finally:
        shutil.rmtree(place)
    return None


def collect(path: Path, told: Told, until: float) -> None:
    """Run gc without a grace, again and again."""
    while time.monotonic() < until and not told.wrong:
        time.sleep(PAUSE_SECONDS)
        with Store.open(path) as store:
            try:
                report = store.gc(store.plan_gc(grace_hours=0, keep_history_days=0, apply=True))
            except CkptfmtError as error:
                documented = any(words in error.message for words in DOCUMENTED)
                (told.failures if documented else told.wrong).append(f"gc: {error.code}: {error.message}")
                continue
        told.counts["runs"] += 1
        told.counts["unlinked"] += report.unlinked
        told.counts["shards"] += report.shards
        told.counts["repacked"] += report.plan.written
        told.wrong += [f"gc found damage: {problem}" for problem in report.problems]


def main() -> None:
    role, store, place, number, seconds = sys.argv[1:]
    told, until = Told(), time.monotonic() + float(seconds)
    try:
        with durable.observed(LinksOutOfTrash(told.counts)):
            if role == "gc":
                collect(Path(store), told, until)
            else:
                Importer(Path(store), Path(place), int(number), told).run(until)
    except BaseException:
        told.wrong.append(traceback.format_exc())
        raise
    finally:
        told.write(Path(place) / "report.json")


if __name__ == "__main__":
    main()
