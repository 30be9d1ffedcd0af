"""Bugs in comparisons: numbers that are nearly right."""

from __future__ import annotations

from typing import Final

from tests.planted.bug import Bug

MEASURES: Final = ("tests/diff/test_measures.py",)
RANKS: Final = ("tests/diff/test_ranks.py",)
UPDATES: Final = ("tests/diff/test_updates.py",)
WHOLE: Final = ("tests/api/test_diff.py",)

COMPARING: Final = (
    Bug(
        "bits are compared where values matter",
        "diff/measures.py",
        "    return changed - int(np.count_nonzero(sign & (a == 0))) if sign.any() else changed\n",
        "    return changed\n",
        MEASURES,
    ),
    Bug(
        "values are compared where bits matter",
        "diff/measures.py",
        "    bits = 0 if words is None else _bits(words)\n",
        "    bits = 0 if words is None else _bits(words & words.dtype.type((1 << (8 * words.itemsize - 1)) - 1))\n",
        MEASURES,
    ),
    Bug(
        "a NaN differs from itself",
        "diff/measures.py",
        "    changed = int(np.count_nonzero((a != b) & ~(np.isnan(a) & np.isnan(b))))\n    kept_a, kept_b = (np.where",
        "    changed = int(np.count_nonzero(a != b))\n    kept_a, kept_b = (np.where",
        MEASURES,
    ),
    Bug(
        "sums of squares underflow",
        "diff/measures.py",
        "    return _SMALLEST < square < math.inf or (square <= _SMALLEST and not values.any())\n",
        "    return square < math.inf\n",
        MEASURES,
    ),
    Bug(
        "large integers are rounded before they are subtracted",
        "diff/measures.py",
        "    distance = (np.maximum(a, b).view(unsigned) - np.minimum(a, b).view(unsigned)).astype(np.float64)\n",
        "    distance = np.abs(a.astype(np.float64) - b.astype(np.float64))\n    del unsigned\n",
        MEASURES,
    ),
    Bug(
        "rows that lie in two blocks are left out of the rank",
        "diff/ranks.py",
        "for index, added in (item for gram in grams for item in gram.partial):",
        "for index, added in ():",
        RANKS,
    ),
    Bug(
        "partial rows are joined to the wrong row",
        "diff/ranks.py",
        "        return begin // self.columns, _product",
        "        return begin // self.columns + 1 - bool(begin % self.columns), _product",
        RANKS,
    ),
    Bug(
        "the difference of two updates loses its digits",
        "diff/updates.py",
        "    if first.right.shape[0] != second.right.shape[0]:\n",
        "    if True:\n",
        UPDATES,
    ),
    Bug(
        "rsLoRA is scaled as LoRA",
        "layouts/peft_keys.py",
        '(math.sqrt(rank) if config.get("use_rslora") else rank)',
        "rank",
        WHOLE,
    ),
    Bug(
        "what has equal digests is read",
        "diff/pairing.py",
        "        differing=tuple(pair for pair in shaped if id(pair) not in equal),\n",
        "        differing=tuple(shaped),\n",
        WHOLE,
    ),
    Bug(
        "a checkpoint with other files is the same",
        "api/diff_report.py",
        "        *(files.added, files.removed, files.changed, tensors.added, tensors.removed, tensors.reshaped),\n",
        "        *(tensors.added, tensors.removed, tensors.reshaped),\n",
        ("tests/cli/test_diff.py",),
    ),
)
