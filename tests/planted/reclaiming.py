"""Bugs of gc: what it relies on, in which order it looks, what it leaves to others."""

from __future__ import annotations

from typing import Final

from tests.planted.bug import Bug, meet

GC: Final = ("tests/gc/test_gc.py",)
DOUBT: Final = ("tests/gc/test_doubt.py",)
HOSTS: Final = ("tests/gc/test_hosts.py",)


def after(*verbs: str) -> tuple[str, ...]:
    name = "tests/faults/test_power_loss.py::test_power_lost_in_a_gc_after_a_killed_run"
    return tuple(f"{name}[{verb}]" for verb in verbs)


RECLAIMING: Final[tuple[Bug, ...]] = (
    Bug(
        "gc relies on shards that are not durable",
        "store/publish.py",
        "    storage.settle(listed.key for prefix in _PLACES for listed in storage.list(prefix))\n",
        "",
        after("optimize"),
    ),
    Bug(
        "gc believes names that are not durable",
        "store/publish.py",
        "    storage.settle(names - certain)\n",
        "",
        after("rm", "import-again-changed"),
    ),
    Bug(
        "refs are listed before claims",
        "store/roots.py",
        "    return Roots(*map(frozenset, (current, earlier, claimed, records, kept)))",
        "    claimed = _claimed(store, now_ns)\n"
        "    return Roots(*map(frozenset, (current, earlier, claimed, records, kept)))",
        ("tests/faults/test_schedules.py::test_a_name_that_appears_while_gc_looks_for_names",),
    ),
    Bug(
        "claims are no roots",
        "store/roots.py",
        "    claimed = _claimed(store, now_ns)\n",
        "    claimed: set[str] = set()\n",
        GC,
    ),
    Bug(
        "what is needed is not brought back",
        "store/gc_run.py",
        "        back = [key for key in gone if bring_back(self._storage, key)]",
        "        back = gone",
        (*GC, *meet("import + gc", "import against a base + gc")),
    ),
    Bug(
        "what stays is not proven",
        "store/gc_run.py",
        "            if not unsound:\n",
        "            if True:\n",
        GC,
    ),
    Bug(
        "roots are those of the plan",
        "store/gc_run.py",
        "            if not self._all_in_place(marker, live, found):\n                continue\n",
        "",
        (*GC, *meet("import + gc", "import against a base + gc")),
    ),
    Bug(
        "a run that was only begun is taken over",
        "store/gc_plan.py",
        "        return is_unfinished_old(run.marked_ns, now_ns)\n",
        "        return now_ns - run.marked_ns >= grace_seconds * 1e9\n",
        GC,
    ),
    Bug(
        "readers do not look into the trash",
        "store/trash.py",
        "        except NotFound as error:\n            missing = error\n        for _ in range(_LOOKS):",
        "        except NotFound as error:\n            missing = error\n        for _ in range(0):",
        GC,
    ),
    Bug(
        "verify does not look into the trash",
        "api/checking.py",
        "read_shard_header(store.readable, shard)",
        "read_shard_header(store.storage, shard)",
        after("import-encoded"),
    ),
    Bug(
        "writers do not bring documents back",
        "store/publish.py",
        "    if not bring_back(storage, manifest_key(digest)):\n        store.put_manifest(manifest)\n",
        "",
        (*GC, *meet("import + gc", "import over + gc")),
    ),
    Bug(
        "what is younger than the grace goes",
        "store/gc_plan.py",
        "    return now_ns - run.marked_ns >= grace_seconds * 1e9\n",
        "    return True\n",
        GC,
    ),
    Bug(
        "what other copies are stored against goes, although what stays is damaged",
        "store/gc_run.py",
        "    copies = catalog.find_many(digests | closure(catalog.dependencies, digests))\n",
        "    copies = catalog.find_many(digests)\n",
        DOUBT,
    ),
    Bug(
        "what other copies are stored against goes unproven",
        "store/gc_run.py",
        "            found = catalog.dependents(fresh)\n",
        "            found: set[bytes] = set()\n",
        DOUBT,
    ),
    Bug(
        "the catalog is counted while others change it",
        "store/survey.py",
        "    with catalog.still():\n        return",
        "    if True:\n        return",
        HOSTS,
    ),
    Bug(
        "what lies in a base is looked for in those that are named now",
        "store/gc_plan.py",
        "    bases = all_outside(store, records=marker.records)\n",
        "    bases = all_outside(store)\n",
        HOSTS,
    ),
    Bug(
        "a new name is given without a claim",
        "api/naming.py",
        "        if store.refs.numbers(old)[-1] != seen.number:\n            raise moved_on(seen)\n",
        "",
        HOSTS,
    ),
    Bug(
        "a claim counts for ever to whoever made it",
        "store/publish.py",
        "        return time.time() - self._since < _HOLDS_SECONDS and self._storage.size(self._key) is not None\n",
        "        return True\n",
        HOSTS,
    ),
    Bug(
        "chains may be too long for what comes after them",
        "store/choosing.py",
        "        while choice.missing - lost:",
        "        while False:",
        ("tests/gc/test_choosing.py",),
    ),
    Bug(
        "a repair relies on what is not durable",
        "fsck/rounds.py",
        "    settle_seen(store.storage, set())\n",
        "",
        ("tests/fsck/test_power_loss.py",),
    ),
    Bug(
        "a cleanup of nothing leaves what was stopped",
        "reclaim/executing.py",
        "    settle_all(receipts)\n",
        "",
        ("tests/reclaim/test_errno.py",),
    ),
    Bug(
        "a cleanup without a hold believes its first proof",
        "reclaim/executing.py",
        "(reason := unkept(self.store, part)) is not None:",
        "(reason := None) is not None:",
        ("tests/reclaim/test_adversary.py",),
    ),
    Bug(
        "what a cleanup notes of another's move counts whatever came since",
        "reclaim/releasing.py",
        "settled = receipts.follow(part, structs.replace(part, ",
        "settled = receipts.append(structs.replace(part, ",
        ("tests/reclaim/test_schedules.py::test_a_move_that_another_cleanup_takes_for_a_stopped_one",),
    ),
    Bug(
        "a repair that fails lets go of what it set aside",
        "fsck/objects_again.py",
        "    yield written.add\n",
        "    try:\n        yield written.add\n    except BaseException:\n"
        "        for name in names.values():\n            storage.delete(name)\n        raise\n",
        ("tests/fsck/test_errno.py",),
    ),
    Bug(
        "a repair does not look again at what a repaired manifest tells",
        "fsck/rounds.py",
        "_ROUNDS: Final = 4",
        "_ROUNDS: Final = 1",
        ("tests/fsck/test_repair.py",),
    ),
)
