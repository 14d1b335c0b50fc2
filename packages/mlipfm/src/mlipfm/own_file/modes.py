"""The modes of `mlipfm finetune`: those of a recipe's `adapt`, and those that change the data or the heads."""

from mlipfm_train.adaptation_modes import ADAPT_MODES, Mode

MODES = {
    "naive": Mode("all weights at one rate"),
    **ADAPT_MODES,
    "replay": Mode("all, also on structures of before", options=("replay", "replay_structures", "replay_choice")),
    "new-head": Mode("another quantity", options=("quantity",)),
}
