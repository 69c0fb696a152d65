"""The next settings to try, from those tried: Optuna's sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stakes.errors import MissingExtraError
from stakes.runtime import derive_seed
from stakes.tune.plan import Choices, Space, Span
from stakes.tune.record import Trial

STARTS = 4  # of them at random before the sampler looks at scores


def suggest(space: Space, tried: Sequence[Trial], *stream: object) -> dict[str, Any]:
    """Settings that were not tried yet, by a tree-structured Parzen estimator over the scores.

    The same trials and ``stream`` give the same settings, so a search that was interrupted goes on as it would have.

    Raises:
        MissingExtraError: Optuna is not installed.

    Source:
        Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011, as Optuna implements it.

    Example:
        >>> suggest({"lr": Span(low=0.1, high=0.2)}, [], 0).keys()
        dict_keys(['lr'])
    """
    optuna = _optuna()
    ranges = {name: _distribution(span) for name, span in space.items()}
    sampler = optuna.samplers.TPESampler(
        seed=derive_seed("tune", *stream, len(tried)) % 2**32, n_startup_trials=STARTS
    )
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
