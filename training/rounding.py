"""Rounds a weight to int8 so that its product comes nearest to fp32's on rows that were measured.

To the nearest step each weight is off by a quarter of a step on average, and all of that is noise in the product. Here a weight that was
rounded up is made up for by those that come after it (GPTQ, Frantar et al. 2023), as far as the channels go together in the rows; the weights begin where
the rows in whole steps, not the rows themselves, give fp32's product best; and what is lost on average goes into the bias.
"""
import numpy as np

RIDGE = 0.01  # of the mean square of a channel: how little the rows say of channels that hardly vary together
KEPT = 1  # the same, for how much the weights keep to what they were
SHRINKS = np.linspace(1, 0.65, 8, dtype=np.float32)  # of a column's scale: the largest weight may lose for the others' sake
TOGETHER = 64  # channels whose errors are passed on to the rest at once
MOST, MOST_OF_TWO = 127, 128  # as in quantize.by_column


def limits(partner):
    """How small and large a weight may be beside its neighbour: two of one sign sum to MOST_OF_TWO and no more."""
    return np.maximum(-MOST, -MOST_OF_TWO - partner), np.minimum(MOST, MOST_OF_TWO - partner)


def scales_of(w, importance):
    """The scale of each column that loses least when weights are rounded by themselves."""
    full = np.maximum(np.abs(w).max(0), np.abs(w[0::2] + w[1::2]).max(0)).clip(1e-8) / MOST
    losses = []
    for shrink in SHRINKS:
        steps = w / (full * shrink)
        even = np.clip(np.round(steps[0::2]), -MOST, MOST)
        odd = np.clip(np.round(steps[1::2]), *limits(even))
        lost = importance[0::2] @ np.square(steps[0::2] - even) + importance[1::2] @ np.square(steps[1::2] - odd)
        losses.append(lost * np.square(full * shrink))
    return (full * SHRINKS[np.argmin(losses, 0)]).astype(np.float32)


def one_after_another(w, square, scale):
    """w in steps of `scale`, the channels that weigh most first, each error made up for by the channels that follow."""
    order = np.argsort(-np.diag(square), kind='stable')
    follows = np.linalg.cholesky(np.linalg.inv(square[np.ix_(order, order)])).T.astype(np.float32)
    left, q = w[order].astype(np.float32), np.zeros(w.shape, np.float32)
    for start in range(0, len(order), TOGETHER):
        end = min(start + TOGETHER, len(order))
        lost = np.zeros((end - start, w.shape[1]), np.float32)
        for i in range(start, end):
            channel = order[i]
            # A neighbour that is not rounded yet stands at zero and limits nothing.
            q[channel] = np.clip(np.round(left[i] / scale), *limits(q[channel ^ 1]))
            lost[i - start] = (left[i] - q[channel] * scale) / follows[i, i]
            left[i + 1:end] -= follows[i, i + 1:end, None] * lost[i - start]
        left[end:] -= follows[start:end, end:].T @ lost
    return q


def rounded(x, w, least, most, weight, size=None):
    """int8 weights [inputs, columns], scales [columns], and what to add to the bias, for rows x [rows, inputs], in steps but not rounded.

    `least` and `most` are what a byte reaches, in steps; `weight` says how much each row counts. Where each row's product is multiplied by
    its own `size` before the bias is added, [rows, 1], the bias is for what comes then.
    """
    share = (weight / weight.sum())[:, None].astype(np.float32)
    x = x.astype(np.float32)
    steps, product = np.clip(np.round(x), least, most), x @ w
    middle, usual = (0, 0) if size is not None else ((share * steps).sum(0), (share * product).sum(0))
    centred = steps - middle
    square = (centred.T @ (share * centred)).astype(np.float64)
    usual_square, eye = np.diag(square).mean(), np.eye(len(square))
    near = w + np.linalg.solve(square + KEPT * usual_square * eye, centred.T @ (share * (product - usual - centred @ w))).astype(np.float32)
    scale = scales_of(near, np.diag(square).astype(np.float32))
    q = one_after_another(near, square + RIDGE * usual_square * eye, scale)
    missing = share * (product - steps @ (q * scale)) * (1 if size is None else size)
    return q.astype(np.int8), scale, missing.sum(0).astype(np.float32)
