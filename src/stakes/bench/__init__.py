"""Grids of unlearnings: many records from one file, resumable, and tables that only render them."""

from __future__ import annotations

from stakes.bench.cells import Cell, expand
from stakes.bench.engine import Report, run_bench
from stakes.bench.grid import Grid, load_grid

__all__ = ["Cell", "Grid", "Report", "expand", "load_grid", "run_bench"]
