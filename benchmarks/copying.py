"""Import, import again, restore and verify, against `cp` and against hashing alone."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import sys
from pathlib import Path

from benchmarks import hashing
from benchmarks.inputs import bytes_below, files_below, make_sharded
from benchmarks.measuring import Figure, Timed, Workplace, command, in_turn, note, ratio, run_timed, settle
from ckptfmt.api import Store

_COPY_AIM = 1.5
_HASH_AIM = 1.3
_NAME = "benchmark"


class Copies:
    """The runs that are compared, over one checkpoint."""

    def __init__(self, place: Workplace) -> None:
        self._place = place
        self.source = place.directory / "source"
        self.store = place.directory / "store"
        self.target = place.directory / "target"
        self.size = make_sharded(self.source, place.size_bytes)

    def copy(self) -> Timed:
        """`cp -r`, then fsync of every file."""
        self._fresh(self.target)
        source, target = shlex.quote(str(self.source)), shlex.quote(str(self.target))
        timed = self._run("sh", "-c", f"cp -r {source} {target} && find {target} -type f -exec sync {{}} +")
        self._same(bytes_below(self.target))
        return timed

    def take(self, effort: str) -> Timed:
        """Import into an empty store."""
        shutil.rmtree(self.store, ignore_errors=True)
        Store.init(self.store).close()
        self._fresh(self.target)
        return self._import(effort)

    def again(self) -> Timed:
        """Import what the store has."""
        self._fresh(self.target)
        timed = self._import("fast")
        if json.loads(timed.output)["new_bytes"]:
            raise SystemExit("a second import wrote objects")
        return timed

    def restore(self) -> Timed:
        """Restore into a new directory; its files are compared after the clock has stopped."""
        self._fresh(self.target, self.store)
        timed = self._run(*command("restore", _NAME, str(self.target), "--store", str(self.store), "--json"))
        for path in files_below(self.source):
            if _sha256(path) != _sha256(self.target / path.relative_to(self.source)):
                raise SystemExit(f"{path.name} came back changed")
        return timed

    def verify(self) -> Timed:
        """Verify every object of the store."""
        settle(self.store)
        timed = self._run(*command("verify", "--all", "--store", str(self.store), "--json"))
        report = json.loads(timed.output)
        if report["damaged"]:
            raise SystemExit("verify found damage")
        return timed

    def hash(self, which: str) -> Timed:
        """Hash the same bytes."""
        settle(self.source)
        timed = self._run(sys.executable, str(Path(hashing.__file__)), which, str(self.source))
        self._same(int(timed.output))
        return timed

    def _import(self, effort: str) -> Timed:
        options = ("--name", _NAME, "--effort", effort, "--store", str(self.store), "--json")
        timed = self._run(*command("import", str(self.source), *options))
        self._same(json.loads(timed.output)["logical_bytes"])
        return timed

    def _fresh(self, target: Path, source: Path | None = None) -> None:
        shutil.rmtree(target, ignore_errors=True)
        settle(source or self.source)

    def _run(self, *words: str) -> Timed:
        return run_timed(words, cache=self._place.cache)

    def _same(self, size: int) -> None:
        if size != self.size:
            raise SystemExit(f"{size} bytes where {self.size} were expected")


def measure(place: Workplace) -> list[Figure]:
    """The four figures of the way in and out, and what stands beside them for information."""
    copies = Copies(place)
    size = f"{copies.size / 1e9:.1f} GB bf16"
    note(f"{size}: import against cp")
    copied, fast, balanced = in_turn(
        [copies.copy, lambda: copies.take("fast"), lambda: copies.take("balanced")], place.pairs
    )
    figures = [
        ratio("import", f"import of {size}, `fast`, against cp and fsync", fast, copied, aim=_COPY_AIM),
        ratio("import balanced", f"import of {size}, `balanced`, against cp and fsync", balanced, copied, aim=None),
    ]
    copies.take("fast")
    note(f"{size}: import again against hashing")
    again, one, two = in_turn(
        [copies.again, lambda: copies.hash("both"), lambda: copies.hash("both-threads")], place.pairs
    )
    figures += [
        ratio(
            "import again", "import of what is there, against a pass of BLAKE3 and SHA-256", again, one, aim=_HASH_AIM
        ),
        ratio(
            "import again, threads", "the same, against a pass with SHA-256 in a second thread", again, two, aim=None
        ),
    ]
    note(f"{size}: restore against cp")
    restored, copied = in_turn([copies.restore, copies.copy], place.pairs)
    figures.append(ratio("restore", f"restore of {size}, against cp and fsync", restored, copied, aim=_COPY_AIM))
    note(f"{size}: verify against BLAKE3")
    verified, one, two = in_turn(
        [copies.verify, lambda: copies.hash("blake3"), lambda: copies.hash("blake3-threads")], place.pairs
    )
    figures += [
        ratio("verify", "verify of raw objects, against one pass of BLAKE3", verified, one, aim=_HASH_AIM),
        ratio("verify, threads", "the same, against BLAKE3 in two threads", verified, two, aim=None),
    ]
    for directory in (copies.source, copies.store, copies.target):
        shutil.rmtree(directory)
    return figures


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
