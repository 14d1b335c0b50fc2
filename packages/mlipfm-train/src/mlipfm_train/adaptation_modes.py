"""The modes by which weights of a checkpoint are adapted, each in one place: what helps, checks and preflight say of it, and its options."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mode:
    """One mode of fine-tuning.

    Attributes:
        help: for the help text. trains: what trains, for preflight; fields of `Adapt`, and `readouts`, are filled in.
        options: that have an effect with this mode only: of `adapt` in a recipe, or of the command.
    """

    help: str
    trains: str = ""
    options: tuple[str, ...] = ()


#: Modes of `adapt` in a recipe. JMP (arXiv:2310.16802): rate x decay^(depth of the readout - depth). LoRA (arXiv:2106.09685): W + (alpha / rank) B A
#: with B = 0 at first. After the regression of `heads` (`ridge_readout`) one step of rate 0 follows.
ADAPT_MODES = {
    "layerwise": Mode(
        "slower far from the readout", "everything, at rates that fall by {decay:g} from block to block away from the readout", ("decay",)
    ),
    "frozen": Mode("readouts only", "{readouts}; the trunk keeps its weights", ("head",)),
    "heads": Mode("last layer by ridge regression", "the last layer of the energy, by ridge regression before the first step", ("ridge",)),
    "lora": Mode("low-rank changes", "low-rank changes of rank {rank}, merged into the model at the end", ("rank", "alpha")),
}
