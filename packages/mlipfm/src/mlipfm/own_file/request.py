"""What the user asks for, and the folder that holds the answer: one request, one folder; the same request goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlipfm_data.importing import fingerprint
from mlipfm_interfaces.errors import RecipeError, UnreadableFileError

from .modes import MODES

#: Minutes of training where nothing else is asked.
MINUTES = 10.0


@dataclass(frozen=True)
class Request:
    """One training on one file.

    Attributes:
        file: data that `mlipfm data import` reads. out: folder of the result.
        model: checkpoint to start from; None trains from random weights. backbone: shipped recipe of that name, without a model.
        valid, test: files or stores of these parts; None: parts of `file`. split: how `file` is divided, see `parts.divide`.
        level: of theory of the labels; None: as the file says. licence: of the data.
        reading: options of the reader. minutes: of training. steps: in place of `minutes`.
        mode: one of `modes.MODES`. rank: of LoRA. quantity: of a new head.
        replay: store of which structures are trained on again. replay_structures: how many. replay_choice: `random` or `farthest`.
        forgetting: store on which the errors before and after are compared.
        new_elements: train elements that the model does not support. accept_label_errors: train although labels contradict physics.
        changes: of the recipe, `key=value`.
    """

    file: Path
    out: Path
    model: str | None = None
    backbone: str | None = None
    valid: Path | None = None
    test: Path | None = None
    split: str = "auto"
    level: str | None = None
    licence: str | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)
    minutes: float | None = None
    steps: int | None = None
    mode: str = "naive"
    rank: int | None = None
    quantity: str | None = None
    replay: Path | None = None
    replay_structures: int | None = None
    replay_choice: str | None = None
    forgetting: Path | None = None
    new_elements: bool = False
    accept_label_errors: bool = False
    seed: int = 0
    changes: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse what cannot be together.

        Raises:
            RecipeError: naming the options. UnreadableFileError: no such file.
        """
        for file in (self.file, self.valid, self.test):
            if file is not None and not file.exists():
                raise UnreadableFileError(
                    "there is no such file", where=str(file), hint="give a file with structures and labels, such as set.xyz"
                )
        if self.valid is not None and self.test is not None and self.split != "auto":
            raise RecipeError("--split has no effect with --valid and --test", hint="leave --split out: nothing of the file is held out")
        if self.mode not in MODES:
            raise RecipeError(f"there is no mode {self.mode!r}", where="--mode", hint=f"known: {', '.join(MODES)}")
        if self.minutes is not None and self.steps is not None:
            raise RecipeError("--minutes and --steps both say how long to train", hint="give one of them")
        if self.mode == "heads" and (self.minutes is not None or self.steps is not None):
            option = "--steps" if self.minutes is None else "--minutes"
            raise RecipeError(
                f"{option} has no effect with --mode heads, which solves for the last layer in one step", hint=f"leave {option} out"
            )
        of_others = {key: name for name, mode in MODES.items() if name != self.mode for key in mode.options}
        for key, mode in of_others.items():
            if vars(self).get(key) is not None:
                option = f"--{key.replace('_', '-')}"
                raise RecipeError(f"{option} has no effect with --mode {self.mode}", hint=f"add --mode {mode}, or leave {option} out")
        if self.mode == "replay" and self.replay is None:
            raise RecipeError(
                "--mode replay needs the structures to train on again", hint="--replay STORE, for instance of the pre-training data"
            )
        if self.mode == "new-head" and self.quantity is None:
            raise RecipeError("--mode new-head needs the quantity to predict", hint="--quantity dipole, for instance")

    def as_json(self) -> dict[str, Any]:
        """Return what decides the result, as the folder keeps it: not where the folder is, nor how long one command may take."""
        plain = {key: value for key, value in asdict(self).items() if key != "out" and value not in (None, False, (), {}, 0, "auto")}
        prints = {"fingerprint": self.file, "valid_fingerprint": self.valid, "test_fingerprint": self.test}
        return json.loads(json.dumps(plain | {key: fingerprint(file) for key, file in prints.items() if file is not None}, default=str))
