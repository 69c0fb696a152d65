"""What several tests of methods are given."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from structguard_jobs import job_like_the_text


@pytest.fixture
def make_job(tmp_path: Path):
    """:func:`structguard_jobs.job_like_the_text`, with its probes in the test's folder."""

    return functools.partial(job_like_the_text, tmp_path)
