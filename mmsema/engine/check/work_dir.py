"""Whether a run may write to its work folder."""

from pathlib import Path
from typing import List, Optional

from ..errors import problem_of_folder


def problem_of_work_dir(work_dir: str, saved: List[Path], resume: bool) -> Optional[str]:
    """Why a run that starts now cannot or should not use this folder, in one line; None if it can.

    Args:
        work_dir: need not exist yet.
        saved: the checkpoints of an earlier run.
        resume: the run goes on from them; a new one must not write over those of another.
    """
    if not work_dir:
        return "work_dir must name a folder, got ''"
    problem = problem_of_folder(Path(work_dir))
    if problem:
        return f"work_dir {work_dir}: {problem}"
    if saved and not resume:
        names = ", ".join(path.name for path in saved[:3]) + (", ..." if len(saved) > 3 else "")
        return (
            f"{saved[0].parent} has checkpoints of an earlier run ({names}); "
            "add --resume to go on with it, or name another folder with --work-dir"
        )
    return None
