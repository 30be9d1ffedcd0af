"""Which tensors of another model hold what a tensor holds, and how its reference is made of them: pure, by names alone.

Saving a model again renames tensors, casts, transposes, splits, fuses or resizes them. What is nominated here is only
tried: whether it makes anything smaller is seen from the bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from ckptfmt.format.dtypes import BITS, size_bytes
from ckptfmt.format.manifest import Role

Key = tuple[Role, str | None, str]
"""Role, part and name of a tensor."""

_FLOATS: Final = frozenset({"BF16", "F16", "F32"})
_WIDTHS: Final = frozenset({8, 16, 32, 64})
_PREFIXES: Final = ("transformer.", "model.", "gpt_neox.", "base_model.", "language_model.", "model.language_model.")
_TIED: Final = (
    ("lm_head.weight", "model.embed_tokens.weight"),
    ("lm_head.weight", "transformer.wte.weight"),
    ("embed_out.weight", "gpt_neox.embed_in.weight"),
)
_MOST_PARTS: Final = 512


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor that fills an object: its dtype and shape, and the object's digest."""

    dtype: str
    shape: tuple[int, ...]
    digest: str


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
    role, part, name = key
    seen: set[Match] = set()
    for other in _names(name) if role == "model" else (name,):
        found = held.get((role, part, other))
        match = _alike(found, dtype, shape) if found is not None else None
        if match is not None and match not in seen:
            seen.add(match)
            yield match
    if role == "model":
        for make in (_expert_of, _experts_from, _part_of_fused):
            match = make(name, dtype, shape, lambda other: held.get(("model", part, other)))
            if match is not None and match not in seen:
                seen.add(match)
                yield match


def _names(name: str) -> Iterator[str]:
    """The names under which other ways of saving know a tensor, its own first."""
    yield name
    for prefix in _PREFIXES:
        yield prefix + name
        if name.startswith(prefix):
            yield name.removeprefix(prefix)
    for pair in _TIED:
        for one, other in (pair, pair[::-1]):
            if name in (one, one.partition(".")[2]):
                yield other
                yield other.partition(".")[2]


def _alike(held: Held, dtype: str, shape: tuple[int, ...]) -> Match | None:
    """A tensor of the same elements, perhaps of another dtype, transposed, or with more or fewer rows."""
    if BITS.get(held.dtype) not in _WIDTHS or not shape or 0 in shape or 0 in held.shape:
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


def _cast(of: str, to: str, steps: list[str], digests: tuple[str, ...]) -> Match | None:
    if of != to:
        if not {of, to} <= _FLOATS:
            return None
        steps = [*steps, f"cast:{of}:{to}"]
    return Match(",".join(steps), digests)


Find = Callable[[str], Held | None]

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
            if held is None or BITS.get(held.dtype) not in _WIDTHS:
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
                if BITS.get(held[0].dtype) not in _WIDTHS:
                    continue
                sizes = "+".join([str(each)] * len(held))
                step = f"fuse:{BITS[held[0].dtype] // 8}:1x{sizes}x{inner}"
                return _cast(held[0].dtype, dtype, [step], tuple(part.digest for part in held))
    return None


_PROJECTION: Final = re.compile(
    r"(?P<module>.+)\.(?P<which>q_proj|k_proj|v_proj|gate_proj|up_proj)\.(?P<kind>weight|bias)"
)


def _part_of_fused(name: str, dtype: str, shape: tuple[int, ...], find: Find) -> Match | None:
    """One projection out of a fused one: q, k, v out of `qkv_proj`, gate and up out of `gate_up_proj`."""
    match = _PROJECTION.fullmatch(name)
    if match is None:
        return None
    which = match["which"]
    fused = "gate_up_proj" if which in ("gate_proj", "up_proj") else "qkv_proj"
    held = find(f"{match['module']}.{fused}.{match['kind']}")
    if held is None or held.shape[1:] != shape[1:] or BITS.get(held.dtype) not in _WIDTHS:
        return None
    rows, total = shape[0], held.shape[0]
    begin = {"q_proj": 0, "gate_proj": 0, "up_proj": rows, "k_proj": total - 2 * rows, "v_proj": total - rows}[which]
    if not 0 <= begin <= total - rows or rows == 0:
        return None
    width, inner = BITS[held.dtype] // 8, math.prod(shape[1:])
    return _cast(held.dtype, dtype, [f"slice:{width}:1x{total}x{inner}:{begin}+{rows}"], (held.digest,))
