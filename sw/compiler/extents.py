"""How far beyond their edges features are read: the size of their buffers."""

from systolith.hw.config import Config

from .ir import Lowered, Operation
from .stripes import Extent

__all__ = ["extents_of"]


def extents_of(lowered: Lowered, config: Config) -> dict[str, Extent]:
    """Buffer extents of all features: what any consumer reads, padding included."""
    result = {}
    for name, feature in lowered.features.items():
        top, bottom, left, right, value = 0, feature.height, 0, feature.width, feature.zero_point
        for operation in lowered.operations:
            output = lowered.features[operation.output]
            for source in operation.sources:
                if source.feature != name or _broadcasts(operation, source.feature):
                    continue
                low, high = source.span(0, 0, output.height)
                first, last = source.span(1, 0, output.width)
                if min(low, first) < 0 or high > feature.height or last > feature.width:
                    value = source.pad_value
                top, bottom = min(top, low), max(bottom, high)
                left, right = min(left, first), max(right, last)
        result[name] = Extent(top, bottom, left, right, value)
    if config.columns > config.rows:
        _join_widths(lowered, result)
    return result


def _broadcasts(operation: Operation, feature: str) -> bool:
    return getattr(operation, "broadcast", False) and operation.sources[0].feature != feature


def _join_widths(lowered: Lowered, extents: dict[str, Extent]) -> None:
    """Give the two sides of a residual add one pitch: POST steps both by the same amount."""
    changed = True
    while changed:
        changed = False
        for operation in lowered.operations:
            residual = operation.finish.residual
            if residual is None:
                continue
            pair = operation.output, residual.feature
            left = min(extents[name].left for name in pair)
            right = max(extents[name].right for name in pair)
            for name in pair:
                old = extents[name]
                if (old.left, old.right) != (left, right):
                    extents[name] = Extent(old.top, old.bottom, left, right, old.pad_value)
                    changed = True
