"""Which tensors of another model hold what a tensor holds, and how its reference is made of them: pure, by names alone.

Saving a model again renames tensors, casts, transposes, splits, fuses or resizes them. What is nominated here is only
tried: whether it makes anything smaller is seen from the bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from ckptfmt.format.dtypes import BITS, size_bytes
from ckptfmt.transfer.fused import fused_from, part_of
from ckptfmt.transfer.held import WIDTHS, Find, Held, Key

_FLOATS: Final = frozenset({"BF16", "F16", "F32"})
_PREFIXES: Final = ("transformer.", "model.", "gpt_neox.", "base_model.", "language_model.", "model.language_model.")
_TIED: Final = (
    ("lm_head.weight", "model.embed_tokens.weight"),
    ("lm_head.weight", "transformer.wte.weight"),
    ("embed_out.weight", "gpt_neox.embed_in.weight"),
)
_ROUTERS: Final = (
    (".block_sparse_moe.gate.weight", ".mlp.gate.weight"),
    (".mlp.gate.weight", ".block_sparse_moe.gate.weight"),
)
"""Beside experts that stand fused in `mlp`, or each by itself in `block_sparse_moe`."""
_EITHER_WAY: Final = re.compile(r"(.*\.)?c_(attn|proj|fc)\.weight")
"""GPT-2's layers hold (in, out) or (out, in), by the same names."""
_MOST_PARTS: Final = 512


@dataclass(frozen=True, slots=True)
class Filling:
    """A tensor that fills an object: what it is looked for by."""

    key: Key
    dtype: str
    shape: tuple[int, ...]

    @property
    def length(self) -> int:
        """Bytes of the tensor."""
        return size_bytes(self.dtype, self.shape) or 0

    @property
    def is_matrix(self) -> bool:
        """Whether it is a matrix of a model, in a float type: what adapters are merged into."""
        return self.key[0] == "model" and len(self.shape) == 2 and self.dtype in _FLOATS


@dataclass(frozen=True, slots=True)
class Match:
    """A reference and the digests of the objects that it is made of."""

    reference: str
    digests: tuple[str, ...]


def matches(key: Key, dtype: str, shape: tuple[int, ...], held: Mapping[Key, Held]) -> Iterator[Match]:
    """What of `held` may be a reference of a tensor, the likeliest first.

    Args:
        key: role, part and name of the tensor.
        dtype: its dtype.
        shape: its dimensions.
        held: the other model's tensors.
    """
    seen: set[Match] = set()
    for match in _candidates(key, dtype, shape, held):
        if match is not None and match not in seen:
            seen.add(match)
            yield match


def _candidates(key: Key, dtype: str, shape: tuple[int, ...], held: Mapping[Key, Held]) -> Iterator[Match | None]:
    role, part, name = key
    if role != "model":
        if key in held:
            yield _alike(held[key], dtype, shape)
        return
    for other in _names(name):
        found = held.get((role, part, other))
        if found is not None:
            yield _alike(found, dtype, shape)
            if found.shape == shape and len(set(shape)) == 1 and _EITHER_WAY.fullmatch(name):
                yield _turned(found, dtype)

    def find(wanted: str) -> Held | None:
        return next((held[role, part, other] for other in _names(wanted) if (role, part, other) in held), None)

    for make in (_expert_of, _experts_from):
        yield make(name, dtype, shape, find)
    for fuse in (part_of, fused_from):
        for made in fuse(name, shape, find):
            yield _cast(made.held, dtype, list(made.steps), made.digests)


def _names(name: str) -> Iterator[str]:
    """The names under which other ways of saving know a tensor, its own first."""
    yield name
    for prefix in _PREFIXES:
        yield prefix + name
        if name.startswith(prefix):
            yield name.removeprefix(prefix)
    for old, new in _ROUTERS:
        if name.endswith(old):
            yield name.removesuffix(old) + new
    for pair in _TIED:
        for one, other in (pair, pair[::-1]):
            if name in (one, one.partition(".")[2]):
                yield other
                yield other.partition(".")[2]


def _alike(held: Held, dtype: str, shape: tuple[int, ...]) -> Match | None:
    """A tensor of the same elements, perhaps of another dtype, transposed, or with more or fewer rows."""
    if BITS.get(held.dtype) not in WIDTHS or not shape or 0 in shape or 0 in held.shape:
        return None
    width = BITS[held.dtype] // 8
    digests: tuple[str, ...] = (held.digest,)
    steps: list[str] = []
    if held.shape != shape:
        rows, had = shape[0], held.shape[0]
        if len(shape) == 2 and held.shape == shape[::-1]:
            steps.append(f"transpose:{width}:{had}x{rows}")
        elif held.shape[1:] == shape[1:] and rows < had:
            steps.append(f"slice:{width}:1x{had}x{math.prod(shape[1:])}:0+{rows}")
        elif held.shape[1:] == shape[1:] and rows <= 2 * had:
            # New rows have nothing to be compared with: they stand against the first old ones.
            inner = math.prod(shape[1:])
            steps += [f"fuse:{width}:1x{had}+{had}x{inner}", f"slice:{width}:1x{2 * had}x{inner}:0+{rows}"]
            digests = (held.digest, held.digest)
        else:
            return None
    return _cast(held.dtype, dtype, steps, digests)


def _turned(held: Held, dtype: str) -> Match | None:
    """A square matrix as its transpose, which no shape tells from itself."""
    if BITS.get(held.dtype) not in WIDTHS or len(held.shape) != 2 or 0 in held.shape:
        return None
    rows, columns = held.shape
    return _cast(held.dtype, dtype, [f"transpose:{BITS[held.dtype] // 8}:{rows}x{columns}"], (held.digest,))


def _cast(of: str, to: str, steps: list[str], digests: tuple[str, ...]) -> Match | None:
    if of != to:
        if not {of, to} <= _FLOATS:
            return None
        steps = [*steps, f"cast:{of}:{to}"]
    return Match(",".join(steps), digests)


_EXPERT: Final = re.compile(
    r"(?P<experts>.+\.experts)\.(?P<index>\d+)\.(?P<module>gate_proj|up_proj|down_proj|w1|w2|w3)\.weight"
)
_FUSED_EXPERTS: Final = re.compile(r"(?P<experts>.+\.experts)\.(?P<module>gate_up_proj|down_proj)(\.weight)?")
_IN_FUSED: Final = {"gate_proj": "gate", "w1": "gate", "up_proj": "up", "w3": "up", "down_proj": "down", "w2": "down"}
_SPELLINGS: Final = (
    (".experts", ("gate_proj", "up_proj", "down_proj")),
    (".experts", ("w1", "w3", "w2")),
)
_MOVED: Final = ((".block_sparse_moe.experts", ".mlp.experts"), (".mlp.experts", ".block_sparse_moe.experts"))


def _homes(experts: str) -> Iterator[str]:
    yield experts
    for old, new in _MOVED:
        if experts.endswith(old):
            yield experts.removesuffix(old) + new


def _expert_of(name: str, dtype: str, shape: tuple[int, ...], find: Find) -> Match | None:
    """One expert's matrix out of all experts' in one tensor: gate and up lie one above the other."""
    match = _EXPERT.fullmatch(name)
    if match is None or len(shape) != 2:
        return None
    kind, index, (rows, inner) = _IN_FUSED[match["module"]], int(match["index"]), shape
    fused = "down_proj" if kind == "down" else "gate_up_proj"
    stride = rows if kind == "down" else 2 * rows
    for home in _homes(match["experts"]):
        for suffix in ("", ".weight"):
            held = find(f"{home}.{fused}{suffix}")
            if held is None or BITS.get(held.dtype) not in WIDTHS:
                continue
            if held.shape[1:] == (stride, inner) and index < held.shape[0]:
                width, total = BITS[held.dtype] // 8, held.shape[0] * stride
                begin = index * stride + (rows if kind == "up" else 0)
                step = f"slice:{width}:1x{total}x{inner}:{begin}+{rows}"
                return _cast(held.dtype, dtype, [step], (held.digest,))
    return None


def _experts_from(name: str, dtype: str, shape: tuple[int, ...], find: Find) -> Match | None:
    """All experts' matrices in one tensor, out of each expert's own."""
    match = _FUSED_EXPERTS.fullmatch(name)
    if match is None or len(shape) != 3:
        return None
    count, rows, inner = shape
    for home in _homes(match["experts"]):
        for _, (gate, up, down) in _SPELLINGS:
            modules = (down,) if match["module"] == "down_proj" else (gate, up)
            each = rows // len(modules)
            if count * len(modules) > _MOST_PARTS or each * len(modules) != rows:
                continue
            parts = [find(f"{home}.{expert}.{module}.weight") for expert in range(count) for module in modules]
            held = [part for part in parts if part is not None and part.shape == (each, inner)]
            if len(held) == len(parts) and len({part.dtype for part in held}) == 1 and len(held) > 1:
                if BITS.get(held[0].dtype) not in WIDTHS:
                    continue
                sizes = "+".join([str(each)] * len(held))
                step = f"fuse:{BITS[held[0].dtype] // 8}:1x{sizes}x{inner}"
                return _cast(held[0].dtype, dtype, [step], tuple(part.digest for part in held))
    return None
