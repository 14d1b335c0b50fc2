"""What a quickstart does and how large it is, without running it."""

from mlipfm.geometries import molecules
from mlipfm.plan import FINETUNED, FULL, HELD_OUT, QUICK

for plan in (QUICK, FULL):
    names = list(molecules())
    train = len(names) - len(HELD_OUT)
    print(
        f"{plan.name}: {train * plan.pretrain} structures at GFN1-xTB for pre-training, {len(FINETUNED) * plan.finetune} at GFN2-xTB for "
        f"fine-tuning, {len(HELD_OUT) * plan.test} of {', '.join(HELD_OUT)} for the test"
    )
