from __future__ import annotations

import torch
from torch import Generator
from torch.nn.functional import cross_entropy, one_hot

from trainables.models.losses import by_label, mean_loss

LOGITS = torch.randn(3, 4, 7, generator=Generator().manual_seed(0))
TOKENS = torch.randint(7, (3, 4), generator=Generator().manual_seed(1))


def test_the_loss_of_a_text_is_the_mean_over_its_tokens() -> None:
    by_hand = -LOGITS.log_softmax(2).gather(2, TOKENS[..., None]).mean()
    torch.testing.assert_close(mean_loss(LOGITS, TOKENS.to(torch.uint8)), by_hand)


def test_images_keep_their_rows() -> None:
    logits, labels = LOGITS[0], TOKENS[0]
    assert torch.equal(mean_loss(logits, labels), cross_entropy(logits, labels))
    soft = one_hot(labels, 7).float()
    assert by_label(logits, soft)[1] is soft
