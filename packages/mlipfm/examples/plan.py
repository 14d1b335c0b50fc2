"""What a quickstart does and how large it is, without running it: its plan, and the commands that it runs."""

from mlipfm.plan import FINETUNED, FULL, HELD_OUT, QUICK
from mlipfm.quickstart import distillation, measurements, training
from mlipfm_data.conformers import quickstart_molecules

for plan in (QUICK, FULL):
    train = len(quickstart_molecules()) - len(HELD_OUT)
    print(
        f"{plan.name}: {len(FINETUNED) * plan.finetune} structures with GFN2-xTB labels for fine-tuning, {train * plan.unlabelled} that the "
        f"fine-tuned model labels, {len(HELD_OUT) * plan.test} of {', '.join(HELD_OUT)} for the test"
    )
for lanes in (training(FULL), distillation(FULL), measurements(FULL)):
    print("\n".join(str(job) for lane in lanes for job in lane))
