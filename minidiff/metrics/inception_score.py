"""Inception Score: how sure a classifier is of each image, and how varied its answers are.

Rests on pieces (logits, a block of rows at a time). Salimans et al. 2016.
"""

import math

import numpy as np
import torch
from scipy.stats import t as student

from minidiff.errors import UserError
from minidiff.metrics.estimates import Estimate
from minidiff.metrics.pieces import Features, blocks, read_rows


def inception_score(logits: Features, splits: int = 10, seed: int = 2020) -> Estimate:
    """Return the Inception Score of logits [N,classes], averaged over splits of the images.

    The score is exp of the mean KL divergence of p(y|x) from p(y) (Salimans et al. 2016, section 4). The images are
    shuffled and split as in torch-fidelity. `std` is the spread over the splits, and `se` is the error of their mean.
    The interval is for the score of N / splits images, which is lower than the score of more images.
    Raise UserError if there are fewer images than splits.
    """
    count = len(logits)
    if len(logits.shape) != 2 or splits < 2 or count < splits:
        raise UserError(
            f"no Inception Score in {splits} splits can be computed from logits {list(logits.shape)}. "
            "Give [N,classes] with N >= splits >= 2."
        )
    order = np.random.RandomState(seed).permutation(count)
    scores = []
    for split in range(splits):
        chosen = order[split * count // splits : (split + 1) * count // splits]
        marginal, negentropy = torch.zeros(logits.shape[1], dtype=torch.float64), 0.0
        for block in blocks(len(chosen)):
            log_p = read_rows(logits, chosen[block]).log_softmax(dim=1)
            marginal += log_p.exp().sum(dim=0) / len(chosen)
            negentropy += (log_p.exp() * log_p).sum().item() / len(chosen)
        scores.append(math.exp(negentropy - torch.xlogy(marginal, marginal).sum().item()))
    value, std = float(np.mean(scores)), float(np.std(scores))
    se = std / math.sqrt(splits - 1)
    reach = float(student.ppf(0.975, splits - 1)) * se  # Student's distribution, for there are few splits
    return Estimate(value, se, value - reach, value + reach, std)
