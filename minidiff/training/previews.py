"""When a training draws pictures, so that they do not take the time from it.

Rests on nothing. The last step is always drawn. Before it, a picture is left out if it would be one of almost the same
weights as the last, or if all pictures so far and this one would take over a tenth of the time of the steps so far.
Which pictures there are can therefore depend on the speed of the machine; what they show, and the training, do not.
"""

import re

SHARE = 0.1  # of the time of the steps
NEAR = 0.1  # of the usual distance: nearer to the last step than this, the weights are almost its own
CURVES = 1.0  # seconds to draw the curves, until that has been measured


class Previews:
    """Decide which steps are drawn, and which warnings about the pictures are new.

    every: steps between two pictures. limited: whether pictures that would take too long are left out; they are not
    when a user has said how often to draw. passes: how many images go through the network, forwards, for one picture.
    """

    def __init__(self, every: int, last: int, limited: bool, passes: int) -> None:
        self.every, self.last, self.limited, self.passes = every, last, limited, passes
        self.spent = 0.0  # seconds on pictures
        self.latest: float | None = None  # seconds on the latest picture
        self.said: set[str] = set()

    def is_due(self, step: int) -> bool:
        """Tell whether a step is one to draw, if there is time."""
        return step == self.last or (step % self.every == 0 and self.last - step >= NEAR * self.every)

    def is_worth(self, step: int, images: int, trained: float) -> bool:
        """Tell whether there is time to draw a step. images: how many have been trained on, in how many seconds."""
        if step == self.last or not self.limited:
            return True
        # Forwards is a third of the work of a training step: the way back takes twice as long as the way there.
        guess = CURVES + self.passes * trained / max(1, images) / 3
        return self.spent + (guess if self.latest is None else self.latest) <= SHARE * trained

    def spend(self, seconds: float) -> None:
        """Take note of the time that a picture took."""
        self.latest = seconds
        self.spent += seconds

    def is_new(self, warning: str) -> bool:
        """Tell whether a warning is said for the first time, whatever the numbers in it."""
        kind = re.sub(r"\d+([.,]\d+)*(e[+-]?\d+)?", "", warning)
        return not (kind in self.said or self.said.add(kind))  # type: ignore[func-returns-value]
