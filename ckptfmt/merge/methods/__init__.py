"""Merge methods: what each kind of adapter does to the tensors of its base, planned before any work.

`plan_changes` is pure: it reads names, shapes and configurations, and raises for what cannot be merged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ckptfmt.errors import MergeError
from ckptfmt.layouts.names import NANOGPT_LORA
from ckptfmt.layouts.peft_keys import PREFIX
from ckptfmt.merge.methods.arithmetic import keep_subnormals
from ckptfmt.merge.methods.bases import Base
from ckptfmt.merge.methods.configuration import check_configuration
from ckptfmt.merge.methods.ledger import Ledger
from ckptfmt.merge.methods.table import METHODS, REFUSED, planner
from ckptfmt.merge.protocol import Adapter, Changes, Setting, Spec

__all__ = ["METHODS", "REFUSED", "plan_changes"]

READ_DTYPES: Final = frozenset(
    {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "I16", "I8", "U8", "BOOL"}
)
"""What an adapter's tensors may be stored as."""


def plan_changes(adapter: Adapter, base: Mapping[str, Spec], setting: Setting) -> Changes:
    """Plan what one adapter does to a base.

    Args:
        adapter: what to merge.
        base: the base's tensors, by the names of its files.
        setting: what to merge under.

    Raises:
        MergeError: it cannot be merged, with the reason; nothing was computed.
        FormatError: its configuration is none that PEFT could have written.
    """
    keep_subnormals(all_threads=True)
    plan = planner(adapter)
    _refuse_unreadable(adapter)
    if adapter.method != NANOGPT_LORA:
        names = {name.removeprefix(PREFIX) for name in adapter.tensors}
        check_configuration(f"adapter {adapter.name}", adapter.config, names | base.keys())
    ledger = Ledger(adapter, Base(base, setting.model_config), setting)
    ledger.base.refuse_quantized(adapter.name)
    plan(ledger)
    return ledger.changes()


def _refuse_unreadable(adapter: Adapter) -> None:
    for name, spec in adapter.tensors.items():
        if 0 in spec.shape:
            raise MergeError(
                f"adapter {adapter.name} cannot be merged: {name} is empty, of shape {list(spec.shape)}",
                hint="save it again with its parameters gathered (DeepSpeed's ZeRO-3 leaves such tensors)",
            )
        if spec.dtype not in READ_DTYPES:
            raise MergeError(
                f"adapter {adapter.name} cannot be merged: {name} is stored as {spec.dtype}, which peft never writes",
                hint="use it unmerged, with what wrote it",
            )
