"""A small recurrent network to start from; put your own in its place."""

from torch import Tensor, nn

FEATURES, CLASSES = 3, 4  # <-- of your sequences


class Recurrent(nn.Module):
    """Convolutions find shapes, a GRU reads them in order, and the mean of its states is classified.

    Args:
        width: channels and states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(FEATURES, width, 5, padding=2), nn.BatchNorm1d(width), nn.ReLU())
        self.rnn = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, sequence: Tensor) -> Tensor:
        """Return logits [N, CLASSES] of sequences [N, T, FEATURES]."""
        states, _ = self.rnn(self.stem(sequence.transpose(1, 2)).transpose(1, 2))
        return self.head(states.mean(dim=1))
