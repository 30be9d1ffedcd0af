"""What a merge is compared with: load, merge_and_unload and save_pretrained, as PEFT's documentation shows it.

python benchmarks/peft_merging.py BASE TARGET plain|fsync ADAPTER...
"""

from __future__ import annotations

import os
import sys


def main(base: str, target: str, ending: str, adapters: list[str]) -> None:
    """Merge adapters one after the other, save, and with `fsync` make the files durable."""
    import peft
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    for adapter in adapters:
        model = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    model.save_pretrained(target)
    if ending == "fsync":
        for name in sorted(os.listdir(target)):
            descriptor = os.open(os.path.join(target, name), os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
