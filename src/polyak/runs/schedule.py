"""When a run logs, evaluates and saves: a function of its plan alone."""

from polyak.runs.session import Session

LOGS_PER_EVALUATION = 10


NEVER = 0


MOST_SUMMED = 2**30


class Schedule:
    """Iterations that end with a log line, an evaluation or a checkpoint: a function of the plan alone."""

    def __init__(self, session: Session, base: int = 0):
        plan, per = session.plan, session.driver.env_steps or session.cfg.data.updates
        self.per = per  # steps in one iteration, or updates where none are taken: the budget's unit
        self.base = base  # the iteration at which they were last counted from 0
        self.total = base + -(-plan.budget // per)
        self.evaluation = max(1, round(plan.eval_every / per)) if plan.eval_every else NEVER
        self.checkpoint = max(1, round(plan.checkpoint_every / per))
        usual = plan.eval_every or max(1, plan.budget // 20)
        longest = MOST_SUMMED // max(per, session.cfg.data.updates)  # sums of a line are int32
        self.log = max(1, min(max(1, round(usual / per)) // LOGS_PER_EVALUATION, longest))

    def due(self, every: int, iteration: int) -> bool:
        """Whether something that happens every so many iterations happens after this one."""
        return every != NEVER and ((iteration - self.base) % every == 0 or iteration == self.total)

    def to_come(self, every: int, iteration: int) -> int:
        """How often something that happens every so many iterations happens after this one."""
        return -(-(self.total - iteration) // every)

    def next(self, iteration: int) -> int:
        """The next iteration after which something happens."""
        stops = (self.log, self.evaluation, self.checkpoint)
        passed = iteration - self.base
        return min(
            self.total, *(self.base + (passed // every + 1) * every for every in stops if every != NEVER)
        )
