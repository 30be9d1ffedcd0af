"""Bugs of the order of writes, of who wins, and of calls that fail."""

from __future__ import annotations

from typing import Final

from tests.planted.bug import LOCAL, PUBLISH, REFS, Bug, errno, meet, power

WRITING: Final[tuple[Bug, ...]] = (
    # The order of writes.
    Bug(
        "a put does not sync its directory",
        "storage/local.py",
        "                raise\n            durable.fsync_directory(os.path.dirname(self.path(key)))",
        "                raise",
        power("base-add-copy"),
    ),
    Bug(
        "a generation's directory is not synced",
        "storage/local.py",
        "            durable.fsync_directory(os.path.dirname(target))\n            return created",
        "            return created",
        power("import-again-changed"),
    ),
    Bug(
        "an upload's directory is not synced",
        "storage/local.py",
        "            self._open = False\n            durable.fsync_directory(os.path.dirname(target))",
        "            self._open = False",
        LOCAL,
    ),
    Bug(
        "an upload's data is not synced",
        "storage/local.py",
        "            durable.pwrite(self._file.descriptor, head, 0)\n            self._file.sync()",
        "            durable.pwrite(self._file.descriptor, head, 0)",
        power("import-fresh"),
    ),
    Bug(
        "a temporary's data is not synced",
        "storage/local.py",
        "            file.write(data)\n            file.sync()\n"
        "        except BaseException:\n            _discard(path)",
        "            file.write(data)\n        except BaseException:\n            _discard(path)",
        power("import-fresh"),
    ),
    Bug(
        "a new directory's name is not synced",
        "storage/durable.py",
        '        fsync_directory(os.path.dirname(directory) or ".")\n',
        "",
        power("import-fresh"),
    ),
    Bug(
        "a directory that somebody else made is not synced",
        "storage/local.py",
        "            if directory not in made:\n                durable.fsync_directory(above)\n",
        "",
        power("import-fresh", "import-again-changed"),
    ),
    Bug(
        "the header is written after the sync",
        "storage/local.py",
        "            durable.pwrite(self._file.descriptor, head, 0)\n            self._file.sync()",
        "            self._file.sync()\n            durable.pwrite(self._file.descriptor, head, 0)",
        power("import-fresh"),
    ),
    Bug(
        "a shard is renamed before it is synced",
        "storage/local.py",
        "            self._file.sync()\n            self._file.close()\n            self._storage.directory_for(key)\n"
        "            durable.rename(self._path, target)\n",
        "            self._storage.directory_for(key)\n            durable.rename(self._path, target)\n"
        "            self._file.sync()\n            self._file.close()\n",
        power("import-fresh"),
    ),
    Bug(
        "the ref comes before the confirmation",
        "store/publish.py",
        "        confirm_all()\n"
        "        if not self.holds():\n"
        "            self.begin()\n"
        "            confirm_all()\n"
        "        given = name()\n",
        "        given = name()\n        confirm_all()\n",
        PUBLISH,
    ),
    Bug(
        "a writer that slept does not confirm again",
        "store/publish.py",
        "        if not self.holds():\n            self.begin()\n            confirm_all()\n",
        "",
        ("tests/gc/test_suspended.py",),
    ),
    Bug(
        "nothing is confirmed",
        "store/publish.py",
        "        confirm(store, objects, name, outside=outside, again=again)\n",
        "",
        PUBLISH,
    ),
    Bug(
        "what was confirmed is not settled",
        "store/publish.py",
        "            store.storage.settle(map(shard_key, shards))\n",
        "",
        power("import-sharing", "import-again-same"),
    ),
    Bug(
        "the confirmation believes the catalog",
        "store/publish.py",
        "        gone = [shard for shard, digests in wanted.items() if digests - present[shard]]",
        "        gone: list[str] = []",
        PUBLISH,
    ),
    Bug(
        "nothing is pinned",
        "store/publish.py",
        "        self._storage.put(self._key, documents.seal(pin))\n",
        "",
        PUBLISH,
    ),
    Bug(
        "a pin is left",
        "store/publish.py",
        "    finally:\n        claim.end()",
        "    finally:\n        pass",
        errno("import-sharing"),
    ),
    Bug(
        "a document that is there is not settled",
        "store/store.py",
        "            self.storage.settle([key])\n",
        "            pass\n",
        power("base-add-copy"),
    ),
    Bug(
        "a document of the right length is believed",
        "store/store.py",
        "return self.storage.size(key) == len(data) and self.storage.read(key, 0, len(data)) == data",
        "return self.storage.size(key) == len(data)",
        PUBLISH,
    ),
    Bug(
        "what stands already is not settled by an append",
        "store/refs.py",
        "                if newest is not None:\n                    self.settled(newest)\n",
        "",
        power("import-again-same", "import-fresh"),
    ),
    Bug(
        "what stands already is not settled by anyone",
        "store/refs.py",
        "        self._storage.settle([_key(seen.name, seen.number)])\n",
        "",
        power("tag", "rollback"),
    ),
    Bug(
        "a directory appears before it is synced",
        "storage/appearing.py",
        "            durable.fsync_directory(building)\n",
        "",
        ("tests/storage/test_appearing.py",),
    ),
    Bug(
        "a restore's name is not synced",
        "storage/appearing.py",
        "        durable.fsync_directory(parent)",
        "        pass",
        power("restore"),
    ),
    Bug("restored files are not synced", "transfer/restoring.py", "        out.sync()\n", "", power("restore")),
    Bug(
        "restored directories are not synced",
        "transfer/restoring.py",
        "        durable.fsync_directory(directory)\n",
        "",
        power("restore"),
    ),
    Bug(
        "a store's name is not settled by whoever finds its directory",
        "store/store.py",
        "        if path not in durable.make_directories(path):\n            _settle_name(path)",
        "        durable.make_directories(path)",
        power("init"),
    ),
    Bug(
        "optimize does not settle what it found done",
        "optimize/reencode.py",
        "    store.storage.settle({shard_key(copy.shard) for copy in copies})\n",
        "",
        power("optimize"),
    ),
    # Who wins.
    Bug(
        "a name is replaced, not created",
        "storage/local.py",
        "            durable.link(temporary, target)\n",
        "            durable.rename(temporary, target)\n",
        meet("import over + import over by another"),
    ),
    Bug(
        "whoever is second believes it was first",
        "storage/local.py",
        "            return os.stat(temporary).st_nlink == 2",
        "            return True",
        meet("import over + import over by another"),
    ),
    Bug(
        "whoever is first believes it was second",
        "storage/local.py",
        "                raise\n            return self._create_exclusively(temporary, target)\n        return True",
        "                raise\n            return self._create_exclusively(temporary, target)\n        return False",
        REFS,
    ),
    Bug(
        "a lost race is not run again",
        "store/refs.py",
        "        for _ in range(_ATTEMPTS):",
        "        for _ in range(1):",
        meet("import over + import over by another"),
    ),
    Bug(
        "a swap does not look",
        "store/refs.py",
        "if self.numbers(seen.name)[-1] == seen.number and self._storage",
        "if self._storage",
        (*REFS, *meet("import over + rm")),
    ),
    Bug(
        "the newest generation is the oldest",
        "store/refs.py",
        "return self.read(name, numbers[-1]) if numbers else None",
        "return self.read(name, numbers[0]) if numbers else None",
        REFS,
    ),
    Bug(
        "a rename drops the old name first",
        "api/naming.py",
        "        claim.give(stands, lambda: store.refs.append(new, make))\n"
        '    store.refs.swap(seen, structs.replace(draft(None, "rename"), message=f"is now {new}"))',
        '        store.refs.swap(seen, structs.replace(draft(None, "rename"), message=f"is now {new}"))\n'
        "        claim.give(stands, lambda: store.refs.append(new, make))",
        ("tests/faults/test_kill.py::test_a_verb_killed_anywhere[rename]",),
    ),
    Bug(
        "rm drops what is pinned",
        "api/naming.py",
        "    if seen.pinned:\n",
        "    if False:\n",
        ("tests/api/test_names.py",),
    ),
    Bug(
        "the same content makes a new generation",
        "transfer/importing.py",
        "    if newest is not None and newest.target == target:\n        return None\n",
        "",
        REFS,
    ),
    # Failing calls.
    Bug(
        "a failed sync is tried again",
        "storage/durable.py",
        '    _mutate("fsync", os.fsync, descriptor)',
        '    try:\n        _mutate("fsync", os.fsync, descriptor)\n    except OSError:\n'
        '        _mutate("fsync", os.fsync, descriptor)',
        LOCAL,
    ),
    Bug(
        "a short write is taken for a whole one",
        "storage/durable.py",
        '        view = view[_mutate("write", os.write, descriptor, view[:_WRITE_BYTES]) :]',
        '        _mutate("write", os.write, descriptor, view[:_WRITE_BYTES])\n        view = view[_WRITE_BYTES:]',
        ("tests/faults/test_errno.py::test_short_writes_are_finished[import-sharing]",),
    ),
    Bug(
        "a short write at an offset is taken for a whole one",
        "storage/durable.py",
        "        view, offset = view[done:], offset + done",
        "        view, offset = view[len(view) :], offset + done",
        ("tests/faults/test_errno.py::test_short_writes_are_finished[import-sharing]",),
    ),
    Bug(
        "the length is not looked at",
        "storage/durable.py",
        "        if found != self.length:\n",
        "        if False:\n",
        LOCAL,
    ),
    Bug(
        "a failed put leaves its temporary",
        "storage/local.py",
        "                durable.rename(temporary, self.path(key))\n            except BaseException:\n"
        "                _discard(temporary)\n                raise",
        "                durable.rename(temporary, self.path(key))\n            except BaseException:\n"
        "                raise",
        errno("import-sharing"),
    ),
    Bug(
        "a failed upload leaves its temporary",
        "store/shards.py",
        "        if self._upload is not None:\n            self._upload.abort()\n        self._reset()",
        "        self._reset()",
        errno("import-large"),
    ),
    Bug(
        "a failed restore leaves what it built",
        "storage/appearing.py",
        "            _discard_tree(building)\n            raise",
        "            raise",
        errno("restore"),
    ),
    Bug(
        "a full disk is an error like any other",
        "storage/durable.py",
        "_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})",
        "_FULL: Final = frozenset({errno.EFBIG})",
        errno("import-sharing"),
    ),
    Bug(
        "a writer that failed goes on",
        "store/shards.py",
        "        failed, self.failed = self.failed, True\n",
        "        failed = self.failed\n",
        ("tests/store/test_shards.py", "tests/exactness/test_at_once.py"),
    ),
    Bug(
        "a stale handle is not opened again",
        "storage/local.py",
        "if error.errno != errno.ESTALE or attempt == _RETRIES - 1:",
        "if True:",
        LOCAL,
    ),
)
