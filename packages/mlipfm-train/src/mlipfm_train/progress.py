"""A progress bar fed by events: loss, force error, seconds per step, time left."""

from __future__ import annotations

from types import TracebackType

from mlipfm_interfaces.console import open_console
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .events import Event


class ProgressBar:
    """Listener for `fit`; use it in a `with` block. Prints the validations above the bar, and nothing but those where there is no terminal."""

    def __init__(self, steps: int, console: Console | None = None) -> None:
        self._console = console or open_console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._error = ""  # of the last validation
        self._task = self._progress.add_task("training", total=steps)

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        values = event["values"]
        if event["kind"] == "step":
            text = f"loss {values['loss']:.4g}  {self._error}{1000 * values['seconds']:.0f} ms/step"
            self._progress.update(self._task, completed=event["step"] + 1, description=text)
        elif event["kind"] == "validation":
            figures = [f"{m['name']} {m['value']:.4g} {m['unit']}" for m in values["metrics"] if m["value"] is not None]
            self._error = f"{figures[0]}  " if figures else ""
            self._console.print(f"step {event['step'] + 1}: {', '.join(figures) or 'no finite prediction'}", highlight=False)
