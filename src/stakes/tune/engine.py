"""Carrying out a search: row by row, trial by trial; each trial is written down before the next of its row begins."""

from __future__ import annotations

from pathlib import Path

from stakes.bench.cells import configured
from stakes.bench.plugins import Registry
from stakes.locks import alone
from stakes.progress import Progress, silent
from stakes.runs import SEARCH, SEARCH_LOCK
from stakes.tune.crew import Order, carry_out_with
from stakes.tune.plan import TunePlan, space_of
from stakes.tune.record import TuneRecord
from stakes.tune.search import Search
from stakes.tune.trials import Trials


def run_tune(
    plan: TunePlan,
    out: Path,
    *,
    registry: Registry | None = None,
    cache: Path | None = None,
    seed: int = 0,
    jobs: int = 1,
    progress: Progress = silent,
) -> TuneRecord:
    """Search settings for every row of a plan, with the same number of trials each.

    A trial unlearns every request of the plan (k × seed) in memory and is judged by two figures: forget accuracy, and
    agreement with the original model on validation probes (`Judge`). No test image is opened, and no retained one
    unless a method trains on them. Highest agreement among the settings that forgot every image wins. A trial that
    diverges counts as one. A row ends early where every choice of its search was tried.

    Args:
        out: folder of the search; one of the same plan goes on where it was.
        registry: methods by name, for those from outside.
        cache: folder for probes; None: the plan's, or ``out/cache``.
        seed: of the sampler's draws; those of the requests stand in the plan.
        jobs: worker processes, as many as there are rows at most, since the trials of a row follow each other; 1 works
            in this process. The threads of torch are divided among them: with ``OMP_NUM_THREADS=1`` the record is the
            same for any ``jobs``.
        progress: told how many trials are done.

    Raises:
        ConfigError, DataError: the plan is wrong or its files are missing, before any work is done.
        RunFolderError: ``out`` belongs to another search, or another one works there.
        StakesError: a worker process died.
        KeyboardInterrupt: interrupted; finished trials are kept.
    """
    registry = registry or Registry()
    cache = cache or (Path(plan.locate(plan.cache)) if plan.cache else out / "cache")
    trials = Trials(plan, registry, cache)  # opens nothing yet
    spaces = {entry.row: space_of(entry, configured(plan, entry, registry)) for entry in plan.methods}
    plan.check_places()
    with alone(out / SEARCH_LOCK, what=f"{out}", fix="Wait for that search, or choose another --out."):
        search = Search(plan, out / SEARCH, trials, spaces, seed)
        progress("trials", search.done, search.whole)
        workers = min(jobs, len(search.open_rows()))
        if workers > 1:
            order = Order(plan, registry.files, cache.resolve())
            carry_out_with(order, search, jobs=workers, progress=progress)
        else:
            while rows := search.open_rows():
                search.keep(rows[0], trials.carry_out(rows[0], search.suggestion(rows[0])))
                progress("trials", search.done, search.whole)
    return search.record
