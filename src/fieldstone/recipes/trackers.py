"""The losses and dev scores of a tuned candidate, told to the tracker of experiments that `report_to` names.

Transformers' own callbacks do the telling. Where a tracker keeps what it is told is its own affair: wandb
sends it to its maker unless told otherwise.
"""

from __future__ import annotations

from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fieldstone.errors import SettingsError
from fieldstone.recipes.curves import curve


def check_tracker(name: str) -> None:
    """Raises SettingsError where the tracker is not installed; an empty name is none."""
    if name and find_spec(name) is None:
        raise SettingsError(
            f"report_to = {name}, but the package {name} is not installed; type: pip install {name}, "
            "or leave report_to empty"
        )


def tell_tracker(name: str, workspace: Path, candidate: str) -> str:
    """Tell the tracker of a candidate such as `models/retriever/ID`; says what became of it.

    The run has the candidate's name; files that a tracker keeps here lie in `WORKSPACE/runs` unless it has a
    place of its own. A tracker that fails does not undo the tuning.
    """
    found = curve(workspace, candidate)
    if found is None:
        return f"{candidate} keeps no losses"
    steps: dict[int, dict[str, float]] = defaultdict(dict)
    for step, loss in found["losses"]:
        steps[int(step)]["loss"] = loss
    for step, score in found["scores"]:
        steps[round(step)]["eval_score"] = score
    try:
        _tell(name, workspace / "runs" / f"{found['part']}-{found['candidate']}", steps)
    except Exception as error:  # whatever goes wrong there, the candidate is tuned and is to be judged
        return f"{name} was not told: {type(error).__name__}: {error}"
    return f"{name} was told of {len(steps)} steps"


def _tell(name: str, folder: Path, steps: dict[int, dict[str, float]]) -> None:
    from transformers import TrainerControl, TrainerState, TrainingArguments
    from transformers.integrations import get_reporting_integration_callbacks

    callback = get_reporting_integration_callbacks([name])[0]()
    arguments: Any = TrainingArguments(
        str(folder), run_name=folder.name, project="fieldstone", report_to="none"
    )
    state, control = TrainerState(), TrainerControl()
    state.is_world_process_zero = state.is_local_process_zero = True
    callback.on_train_begin(arguments, state, control, model=None)
    for step, values in sorted(steps.items()):
        state.global_step = step
        callback.on_log(arguments, state, control, model=None, logs=values)
    callback.on_train_end(arguments, state, control, model=None)
