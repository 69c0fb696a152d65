"""The next settings to try, from those tried: Optuna's sampler."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Any

from stakes.errors import MissingExtraError
from stakes.runtime import derive_seed
from stakes.tune.plan import Choices, Space, Span
from stakes.tune.record import Trial

AGAIN = 16  # draws of settings that were not tried yet
STARTS = 4  # of them at random before the sampler looks at scores


def suggest(space: Space, tried: Sequence[Trial], *stream: object) -> dict[str, Any]:
    """Settings that were not tried yet, by a tree-structured Parzen estimator over the scores.

    The same trials and ``stream`` give the same settings, so a search that was interrupted goes on as it would have.
    What was tried is drawn again, at most so often; then the next of a finite space is taken. Where nothing is left
    (`exhausted`) they repeat.

    Raises:
        MissingExtraError: Optuna is not installed.

    Source:
        Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011, as Optuna implements it.

    Example:
        >>> suggest({"lr": Span(low=0.1, high=0.2)}, [], 0).keys()
        dict_keys(['lr'])
    """
    so_far = [trial.settings for trial in tried]
    for again in range(AGAIN):
        # The first draw is that of records from before draws were made again.
        found = _drawn(space, tried, derive_seed("tune", *stream, len(tried), *([again] if again else [])))
        if found not in so_far:
            return found
    return next((one for one in _all(space) if one not in so_far), found)


def exhausted(space: Space, tried: Sequence[Trial]) -> bool:
    """Whether all settings of a finite space were tried.

    Example:
        >>> exhausted({"lr": (0.1, 0.2)}, [Trial(settings={"lr": 0.1}), Trial(settings={"lr": 0.2})])
        True
    """
    so_far = [trial.settings for trial in tried]
    # No more than one beyond those tried are looked at, however many there are.
    return _finite(space) and all(one in so_far for one in islice(_all(space), len(tried) + 1))


def _finite(space: Space) -> bool:
    return all(not isinstance(span, Span) or span.whole for span in space.values())


def _all(space: Space) -> Iterator[dict[str, Any]]:
    """Every settings of a finite space, one after the other; none of another."""
    if not _finite(space):
        return
    values = [
        range(int(span.low), int(span.high) + 1) if isinstance(span, Span) else span
        for span in space.values()
    ]
    for one in product(*values):
        yield dict(zip(space, one, strict=True))


def _drawn(space: Space, tried: Sequence[Trial], seed: int) -> dict[str, Any]:
    optuna = _optuna()
    ranges = {name: _distribution(span) for name, span in space.items()}
    sampler = optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=STARTS)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in tried:
        if trial.settings.keys() == ranges.keys() and _within(trial.settings, space):
            state = optuna.trial.TrialState
            made = optuna.trial.create_trial(
                state=state.FAIL if trial.score is None else state.COMPLETE,
                value=trial.score,
                params=trial.settings,
                distributions=ranges,
            )
            study.add_trial(made)
    return dict(study.ask(ranges).params)


def _within(settings: Mapping[str, Any], space: Space) -> bool:
    return all(
        span.low <= settings[name] <= span.high if isinstance(span, Span) else settings[name] in span
        for name, span in space.items()
    )


def _distribution(span: Span | Choices) -> Any:
    kinds = _optuna().distributions
    if not isinstance(span, Span):
        return kinds.CategoricalDistribution(span)
    if span.whole:
        return kinds.IntDistribution(int(span.low), int(span.high), log=span.log)
    return kinds.FloatDistribution(span.low, span.high, log=span.log)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise MissingExtraError(
            "stakes tune",
            expected="optuna",
            got="it is not installed",
            fix="Install the extra: pip install 'stakes[tune]'.",
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
