"""What a step of activations in int8 is worth, channel by channel, found on rows that were measured.

Of each channel a share of what makes it large goes to the weights (SmoothQuant, Xiao et al. 2022), and of the largest value a share that a byte
reaches; of these what brings the product of rows and weight nearest to fp32 is taken.
"""
import numpy as np

from quantize import by_column

TRIED = 2000  # rows, for what is tried
EVENINGS = (0.75, 0.9, 1)
QUANTILES = (1, 0.9995)  # of a channel, what counts as its largest value
REACHES = (1, 0.9, 0.8, 0.7)  # of the largest value: what is beyond is cut
WEIGHTS_COUNT = 0.3  # of the square of what weights lose: rounding.py brings it down to about that


def weighing(product):
    """Rows count by how far they are from what they should be, in their own size: a few are many times larger than the rest."""
    size = np.linalg.norm(product, axis=1, keepdims=True)
    return 1 / (size + np.median(size))


def far(rows, weights):
    return float(np.square(rows * weights).mean() ** 0.5)


def even_steps(rows, w, quantiles=QUANTILES):
    """What a step is worth, by channel, and the channel's middle: (loss, how it was found, steps, middles).

    The loss is of the product, as a share of how it varies: by rows in steps, and in part by weights rounded to the nearest.
    """
    centre = ((np.quantile(rows, 0.9995, 0) + np.quantile(rows, 0.0005, 0)) / 2).astype(np.float32)
    sizes, rows, tries = np.abs(rows - centre), rows[:TRIED] - centre, []
    product, weights = rows @ w, np.abs(w).max(1) + 1e-6
    weigh = weighing(product)
    whole = far(product - product.mean(0), weigh)
    for quantile in quantiles:
        largest = np.quantile(sizes, quantile, axis=0).astype(np.float32) + 1e-4
        for evening in EVENINGS:
            usual = largest**evening / weights ** (1 - evening)
            top = (largest / usual).max()
            for reach in REACHES:
                back = (usual * (reach * top / 127)).astype(np.float32)
                steps = np.clip(np.round(rows / back), -128, 127)
                q, scale = by_column(w * back[:, None])
                lost = far((steps * back - rows) @ w, weigh), far(steps @ (q * scale - w * back[:, None]), weigh)
                tries.append((lost[0] ** 2 + WEIGHTS_COUNT * lost[1] ** 2, lost, (quantile, evening, reach), back))
    _, lost, how, back = min(tries, key=lambda t: t[0])
    return [v / whole for v in lost], how, back, centre
