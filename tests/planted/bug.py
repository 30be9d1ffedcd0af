"""What a planted bug is, and which tests stand for what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Bug:
    """A change of one place.

    Attributes:
        name: what is wrong then.
        file: below `ckptfmt/`.
        old, new: the text there, and the wrong one.
        tests: of which at least one must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def power(*verbs: str) -> tuple[str, ...]:
    return tuple(f"tests/faults/test_power_loss.py::test_power_lost_anywhere[{verb}]" for verb in verbs)


def errno(*verbs: str) -> tuple[str, ...]:
    return tuple(f"tests/faults/test_errno.py::test_a_call_fails[{verb}]" for verb in verbs)


def meet(*meetings: str) -> tuple[str, ...]:
    return tuple(f"tests/faults/test_schedules.py::test_whoever_meets[{meeting}]" for meeting in meetings)


ROT: Final = ("tests/faults/test_rot_everywhere.py", "tests/faults/test_rot.py")
PUBLISH: Final = ("tests/store/test_publish.py",)
ZIPS: Final = ("tests/containers/test_zip_lies.py", "tests/containers/test_torch_files.py")
PICKLES: Final = ("tests/containers/test_pickles.py",)
HEADERS: Final = ("tests/format/test_safetensors_header.py", "tests/containers/test_safetensors.py")
SHARDS: Final = ("tests/format/test_shard.py", "tests/format/test_hostile_stored.py")
DECODERS: Final = (
    "tests/encodings/test_hostile.py",
    "tests/encodings/test_delta_hostile.py",
    "tests/encodings/test_lowrank_hostile.py",
)
ROUND_TRIP: Final = ("tests/transfer/test_round_trip.py",)
REFS: Final = ("tests/store/test_refs.py",)
LOCAL: Final = ("tests/storage/test_local.py",)
