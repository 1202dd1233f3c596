"""One padding value a feature: a consumer that pads with another value gets a copy."""

from dataclasses import replace

from systolith.hw.config import Config

from .ir import Lowered, Operation, Point, Source, identity_finish

__all__ = ["separate_paddings"]


def separate_paddings(lowered: Lowered, config: Config) -> None:
    """Insert copies, so that all that is read beyond a feature's edges is one value.

    Max pooling pads with the least integer and convolution with the zero point. They can share a
    buffer only when both are the same.
    """
    result: list[Operation] = []
    values: dict[str, int] = {}
    copies: dict[tuple[str, int], str] = {}
    for operation in lowered.operations:
        sources = []
        for source in operation.sources:
            if _pads(lowered, operation, source):
                value = values.setdefault(source.feature, source.pad_value)
                if value != source.pad_value:
                    source = _copied(lowered, config, operation, source, copies, result)
            sources.append(source)
        operation.sources = tuple(sources)
        result.append(operation)
    lowered.operations = result


def _pads(lowered: Lowered, operation: Operation, source: Source) -> bool:
    """Whether a source is read beyond its edges."""
    feature, output = lowered.features[source.feature], lowered.features[operation.output]
    if isinstance(operation, Point):
        return False
    rows, columns = source.span(0, 0, output.height), source.span(1, 0, output.width)
    return (min(rows[0], columns[0]) < 0 or rows[1] > feature.height
            or columns[1] > feature.width)


def _copied(lowered: Lowered, config: Config, operation: Operation, source: Source,
            copies: dict[tuple[str, int], str], result: list[Operation]) -> Source:
    key = source.feature, source.pad_value
    if key not in copies:
        name = copies[key] = f"{source.feature}@{source.pad_value}"
        lowered.features[name] = replace(lowered.features[source.feature], name=name)
        result.append(Point(
            name=f"{operation.name}.padding", op="Copy", output=name,
            names=(f"{operation.name}.padding",), sources=(Source(feature=source.feature),),
            finish=identity_finish(config)))
    return replace(source, feature=copies[key])
