"""The table of accuracy by width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.markdown import table


def section(rows: Sequence[dict[str, Any]]) -> str:
    return (
        "## Accuracy by width\n\n"
        "`python -m benchmarks.accuracy`. Mean cosine similarity, and that of the worst layer,\n"
        "with default settings. *wanted* is the threshold of `validate_quality` for the mean over\n"
        "the weights (the guide's 0.70 at 2 bits). A calibrated result reports the cosine\n"
        "similarity of layer outputs on held-out inputs. Its weights are moved to make these\n"
        "outputs right, so the weights themselves are less similar. A data-free result\n"
        "reports the weights.\n\n"
        + table(
            (
                "model",
                "bits",
                "wanted",
                "outputs",
                "worst",
                "weights",
                "validation",
                "data-free weights",
                "data-free worst",
            ),
            [
                (
                    row["model"],
                    str(row["bit_width"]),
                    f"{row['wanted']:.2f}",
                    f"{row['outputs']:.6f}",
                    f"{row['worst_outputs']:.6f}",
                    f"{row['weights']:.6f}",
                    "passed" if row["passed"] else "missed",
                    f"{row['data_free_weights']:.6f}",
                    f"{row['data_free_worst']:.6f}",
                )
                for row in rows
            ],
        )
    )
