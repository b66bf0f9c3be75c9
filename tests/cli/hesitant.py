"""An engine that is sure of a class, of a group only, or of nothing, and images for each."""

from tests import makers
from tests.serving import FakeEngine, Features, Logits, Pixels

CLASS, GROUP, UNSURE = 13, 218, 243  # grey levels


class Hesitant(FakeEngine):
    """Knows class 8 from the others in its group no better than by chance, and class 9 not at all."""

    def infer(
        self, pixels: Pixels, *, features: bool = False, exclusive: bool = False
    ) -> tuple[Logits, Features | None]:
        logits, maps = super().infer(pixels, features=features, exclusive=exclusive)
        for row in logits:
            row[5:] = {8: 5, 9: 0}.get(int(row.argmax()), row[5:])
        return logits, maps


def grey(level: int, number: int = 0) -> bytes:
    """Another image of that level for every number; what follows the end of a PNG is not decoded."""
    return makers.encode(makers.flat(color=(level,) * 3), "PNG") + number.to_bytes(4)
