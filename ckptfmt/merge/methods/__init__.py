"""Merge methods: what each kind of adapter does to the tensors of its base, planned before any work.

`plan_changes` is pure: it reads names, shapes and configurations, and raises for what cannot be merged.
"""

from __future__ import annotations

from collections.abc import Mapping

from ckptfmt.merge.methods.arithmetic import keep_subnormals
from ckptfmt.merge.methods.bases import Base
from ckptfmt.merge.methods.ledger import Ledger
from ckptfmt.merge.methods.table import METHODS, REFUSED, planner
from ckptfmt.merge.protocol import Adapter, Changes, Setting, Spec

__all__ = ["METHODS", "REFUSED", "plan_changes"]


def plan_changes(adapter: Adapter, base: Mapping[str, Spec], setting: Setting) -> Changes:
    """Plan what one adapter does to a base.

    Args:
        adapter: what to merge.
        base: the base's tensors, by the names of its files.
        setting: what to merge under.

    Raises:
        MergeError: it cannot be merged, with the reason; nothing was computed.
    """
    keep_subnormals(all_threads=True)
    plan = planner(adapter)
    ledger = Ledger(adapter, Base(base, setting.model_config), setting)
    ledger.base.refuse_quantized(adapter.name)
    plan(ledger)
    return ledger.changes()
