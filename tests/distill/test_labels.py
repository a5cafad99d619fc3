"""Labels as a run brings them: class indices, none, and the shares of mixed photos."""

import pytest
import torch
import torch.nn.functional as F

from kit.distill.losses import ce

LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_photos_without_a_label_do_not_count(smoothing):
    labels = torch.tensor([2, -1, 0, -1, 3, 1])
    known = labels >= 0
    assert ce(LOGITS, labels, smoothing).item() == pytest.approx(ce(LOGITS[known], labels[known], smoothing).item())
    shares = F.one_hot(labels.clamp(min=0), 4).float() * known[:, None]
    assert ce(LOGITS, shares, smoothing).item() == pytest.approx(ce(LOGITS, labels, smoothing).item())


def test_a_batch_without_any_label_gives_nothing_and_no_nan():
    for labels in (torch.full((6,), -1), torch.zeros(6, 4)):
        logits = LOGITS.clone().requires_grad_()
        loss = ce(logits, labels, 0.1)
        loss.backward()
        assert loss.item() == 0
        assert (logits.grad == 0).all()


def test_shares_of_mixed_photos_are_torchs_soft_targets():
    shares = torch.softmax(torch.randn(6, 4, generator=torch.Generator().manual_seed(2)), 1)
    for smoothing in (0.0, 0.2):
        assert ce(LOGITS, shares, smoothing).item() == pytest.approx(F.cross_entropy(LOGITS, shares, label_smoothing=smoothing).item())
