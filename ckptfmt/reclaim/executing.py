"""Executing a cleanup, one checkpoint at a time: take in, prove, receipt, move; with a hold of 0, delete.

Any doubt about a file keeps that file, any doubt about a checkpoint all of its files; both are reported.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from msgspec import structs

from ckptfmt.errors import CkptfmtError, StorageError
from ckptfmt.format.documents import FORMAT_VERSION
from ckptfmt.format.receipt import HeldDirectory, HeldFile, Receipt
from ckptfmt.progress import Numbered, Progress
from ckptfmt.reclaim import holding
from ckptfmt.reclaim.found import FileSeen, Identity
from ckptfmt.reclaim.planning import CleanupPlan, Refused, Step
from ckptfmt.reclaim.proving import Proof, ProofRequest, Prover
from ckptfmt.reclaim.releasing import settle_all, unkept, unlink
from ckptfmt.reclaim.rows import freed_by
from ckptfmt.reclaim.space import allocated_below, available
from ckptfmt.reclaim.taking import bases_outside, copy_in, take_in
from ckptfmt.store.receipts import Receipts, new_receipt_id
from ckptfmt.store.store import Store


@dataclass(slots=True)
class Done:
    """What a cleanup did.

    Attributes:
        receipt: its id; None where nothing was taken away.
        moved: absolute path, file and shared bytes of all that was moved into the hold.
        freed_bytes: what the file system gave back.
        grown_bytes: what the store takes more than before.
        taken: the names that checkpoints were taken in under.
        refused: what stays, and why.
    """

    receipt: str | None = None
    moved: list[tuple[str, FileSeen, int]] = field(default_factory=list)
    freed_bytes: int = 0
    grown_bytes: int = 0
    taken: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)

    @property
    def held_bytes(self) -> int:
        """What the file system will give back for what was moved."""
        return freed_by(self.moved)


def check_space(store: Store, plan: CleanupPlan) -> None:
    """Refuse a plan that may need more space than there is.

    Raises:
        StorageError: before anything was written (`disk-full`).
    """
    free = available(store.path or ".")
    needed = plan.needed_at_once if plan.hold_seconds == 0 else plan.needed_bytes
    if needed <= free:
        return
    hint = "clean fewer directories at a time"
    if plan.hold_seconds and plan.needed_at_once <= free:
        hint = f"--hold 0 gives each checkpoint's space back before the next: it needs {plan.needed_at_once:,} bytes"
    raise StorageError(
        f"{store.path}: taking this in may need {needed:,} bytes, and {free:,} are free; nothing was written",
        code="disk-full",
        hint=hint,
    )


def message_of(receipt: str) -> str:
    """What the generations of refs say that a cleanup made."""
    return f"cleanup {receipt}"


def execute_cleanup(store: Store, plan: CleanupPlan, prover: Prover, progress: Progress) -> Done:
    """Clean up as planned, after moves that were stopped in earlier cleanups are finished.

    Raises:
        StorageError: there is not space enough; nothing was written.
    """
    check_space(store, plan)
    done = Done(refused=list(plan.refused))
    receipts = Receipts(store.storage)
    settle_all(receipts)
    if not any(step.going for step in plan.steps):
        return done
    run = _Run(store, plan, prover, progress, receipts, new_receipt_id(), done)
    before = allocated_below(store.path or ".")
    for number, step in enumerate(plan.steps, 1):
        run.progress = Numbered(progress, number, len(plan.steps))
        run.step(step)
    done.grown_bytes = allocated_below(store.path or ".") - before
    return done


@dataclass(slots=True)
class _Run:
    """One run of a cleanup."""

    store: Store
    plan: CleanupPlan
    prover: Prover
    progress: Progress
    receipts: Receipts
    receipt: str
    done: Done
    parts: int = 0
    directories: dict[str, HeldDirectory] = field(default_factory=dict)

    def step(self, step: Step) -> None:
        """One checkpoint. An error of ours keeps all of its files, and the next one is begun."""
        try:
            self._room(step)
            if not step.going:
                if not step.known:
                    self.done.taken.append(
                        take_in(self.store, step, message=self._message(), progress=self.progress)[0]
                    )
                return
            self._clean(step)
        except CkptfmtError as error:
            if step.going:
                self.done.refused.append(Refused(step.seen.shown, error.message))

    def _message(self) -> str:
        return message_of(self.receipt)

    def _room(self, step: Step) -> None:
        """Look once more whether there is room for this step: others write, too.

        Raises:
            StorageError: there is not.
        """
        free = available(self.store.path or ".")
        if step.most_bytes > free:
            raise StorageError(f"it may need {step.most_bytes:,} bytes, and {free:,} are free", code="disk-full")

    def _clean(self, step: Step) -> None:
        ref, manifest, proof = self._proven(step)
        if proof.problem is not None:
            self.done.refused.append(Refused(step.seen.shown, proof.problem))
            return
        top, prefix = step.seen.top, f"{step.seen.root}/" if step.seen.root else ""
        seen = {item.file.path: item for item in step.going}
        sound: dict[str, Identity] = {}
        files = []
        for found in proof.files:
            path = prefix + found.path
            reason = found.reason
            # Not its ctime: that changes too when another name of the same file is moved.
            if reason is None and found.identity[:4] != seen[path].file.identity[:4]:
                reason = "it changed after it was looked at"
            if reason is not None:
                self.done.refused.append(Refused(f"{top}/{path}", reason))
                continue
            device, inode, size, mtime_ns, _ = sound.setdefault(path, found.identity)
            files.append(
                HeldFile(
                    path=path,
                    size=size,
                    sha256=found.sha256,
                    device=device,
                    inode=inode,
                    mtime_ns=mtime_ns,
                    mode=found.mode,
                    allocated=found.allocated,
                )
            )
        if files:
            self._move(step, ref, manifest, tuple(files), sound)

    def _proven(self, step: Step) -> tuple[str, str, Proof]:
        """Take a checkpoint in, unless it stands already, and prove it."""
        for ref, manifest in step.known:
            self._bases(manifest)
            proof = self._prove(step, manifest)
            if proof.problem is None and all(file.reason is None for file in proof.files):
                return ref, manifest, proof
        ref, manifest = take_in(self.store, step, message=self._message(), progress=self.progress)
        self.done.taken.append(ref)
        self._bases(manifest)
        return ref, manifest, self._prove(step, manifest)

    def _bases(self, manifest: str) -> None:
        """Copy in the bases that a checkpoint needs, as the plan says."""
        if self.plan.outside:
            return
        planned = {base.record for base in self.plan.bases}
        needed = bases_outside(self.store, self.store.manifest(manifest))
        copy_in(self.store, [base for base in needed if base.digest in planned], self.progress)

    def _prove(self, step: Step, manifest: str) -> Proof:
        prefix = f"{step.seen.root}/" if step.seen.root else ""
        paths = tuple(item.file.path[len(prefix) :] for item in step.going)
        total = sum(item.file.size for item in step.going)
        self.progress.begin(f"prove {step.seen.name or step.seen.top}", total)
        proof = self.prover(
            ProofRequest(self.store.path or "", manifest, step.seen.path, paths, outside=self.plan.outside)
        )
        self.progress.advance(total)
        self.progress.end()
        return proof

    def _move(
        self, step: Step, ref: str, manifest: str, files: tuple[HeldFile, ...], sound: dict[str, Identity]
    ) -> None:
        self.parts += 1
        outside: tuple[str, ...] = ()
        if self.plan.outside:
            outside = tuple(base.name for base in bases_outside(self.store, self.store.manifest(manifest)))
        part = self.receipts.append(
            Receipt(
                version=FORMAT_VERSION,
                receipt=self.receipt,
                number=0,
                part=self.parts,
                state="moving",
                time="",
                host="",
                top=step.seen.top,
                root=step.seen.root,
                manifest=manifest,
                ref=ref,
                keep=self.plan.keep,
                hold_seconds=self.plan.hold_seconds,
                files=files,
                directories=tuple(self._directories(step.seen.top, files)),
                outside=outside,
            )
        )
        self.done.receipt = self.receipt
        seen = {item.file.path: item for item in step.going}
        for file in files:
            try:
                now = sound[file.path] = holding.hold(part, file, sound[file.path])
            except holding.Doubt as doubt:
                del sound[file.path]
                self.done.refused.append(Refused(f"{step.seen.top}/{file.path}", str(doubt)))
                continue
            # A rename changes the ctime of all names of a file.
            sound.update({path: now for path, before in sound.items() if before[:4] == now[:4]})
        if self.plan.hold_seconds == 0:
            for file in [file for file in files if file.path in sound]:
                if not self._is_still(part, file, sound[file.path]):
                    del sound[file.path]
        moved = holding.moved(part)
        for file in moved:
            item = seen[file.path]
            self.done.moved.append((f"{step.seen.top}/{file.path}", item.file, item.shared))
        part = self.receipts.append(structs.replace(part, state="held" if moved else "undone", files=moved))
        if not moved:
            holding.tidy(part, files)
        elif self.plan.hold_seconds == 0 and (reason := unkept(self.store, part)) is not None:
            place = f"{step.seen.top}/{step.seen.root}".rstrip("/")
            self.done.refused.append(Refused(place, f"its files stay in the hold: {reason}"))
        elif self.plan.hold_seconds == 0:
            released = unlink(self.receipts, part, sound)
            self.done.freed_bytes += released.freed_bytes
            self.done.refused += released.refused

    def _is_still(self, part: Receipt, file: HeldFile, identity: Identity) -> bool:
        """Read a moved file once more where no second proof will come; what is not what it was goes back."""
        if holding.is_still(part, file, identity):
            return True
        reason = "it changed while it was moved, and is back in its place"
        try:
            holding.put_back(part, file)
            holding.keep_times(part, [os.path.dirname(file.path)])
        except (holding.Doubt, StorageError) as doubt:
            reason = f"it changed while it was moved: {doubt}"
        self.done.refused.append(Refused(holding.own_place(part, file), reason))
        return False

    def _directories(self, top: str, files: tuple[HeldFile, ...]) -> Iterator[HeldDirectory]:
        """The directories of files and all above them, as they were when this run first took something from them."""
        paths = {""}
        for file in files:
            path = os.path.dirname(file.path)
            while path and path not in paths:
                paths.add(path)
                path = os.path.dirname(path)
        for path in sorted(paths):
            place = f"{top}/{path}" if path else top
            if place not in self.directories:
                found = os.lstat(place)
                self.directories[place] = HeldDirectory(path or ".", stat.S_IMODE(found.st_mode), found.st_mtime_ns)
            yield self.directories[place]
