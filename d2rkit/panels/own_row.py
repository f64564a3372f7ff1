"""Notebook 09: what a divergence of one's own does, and where a row of one's own stands; for `Prediction.reveal`."""

from __future__ import annotations

from typing import Any

import pandas as pd

from d2rkit.panels import base
from d2rkit.panels.divergence_explorer import Landscape
from d2rkit.panels.verdicts import p_words
from d2rkit.reporting.render import to_html
from d2rkit.reporting.tables import paired_as_table


def closer(first: Landscape, second: Landscape) -> dict[str, Any]:
    """Under which of two divergences the target comes closer to the guide: the same start, as many steps."""
    ends = [float(each.distance[-1]) for each in (first, second)]
    actual = "same" if abs(ends[0] - ends[1]) < 0.005 else "first" if ends[0] < ends[1] else "second"
    told = "; ".join(f"{each.label}: {each.distance[0]:.3f} to {each.distance[-1]:.3f}" for each in (first, second))
    words = f"Distance to the guide (total variation), before and after {len(first.along) - 1} steps: {told}."
    return {"actual": actual, "words": words}


def against(paired: pd.DataFrame, method: str) -> dict[str, Any]:
    """Whether a row of paired_table() differs from its reference beyond chance."""
    row = next(row for row in paired.to_dict("records") if row["method"] == method)
    actual = "same" if row["p_holm"] >= 0.05 else "better" if row["difference"] > 0 else "worse"
    words = (
        f"{row['label']} less {row['reference']}: {100 * row['difference']:+.1f} points, "
        f"{p_words(row['p_holm'])} (corrected for {len(paired)} rows)."
    )
    return {"actual": actual, "words": base.sentence(words) + to_html(paired_as_table(paired))}
