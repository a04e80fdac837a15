"""How a job ended, as a worker tells its study."""

import dataclasses

READY = "ready"  # no job yet
DONE = "done"
DIVERGED = "diverged"  # with these values it always will: an end for a trial, a failure of a run
FAILED = "failed"
STOPPED = "stopped"  # on request, with everything saved


@dataclasses.dataclass(frozen=True)
class Answer:
    """How a job ended.

    Attributes:
      status: one of the above.
      message: one line, where there is something to say.
      seconds: it took.
    """

    status: str
    message: str = ""
    seconds: float = 0.0
