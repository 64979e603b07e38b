"""What the names and shapes of a checkpoint say about its dimensions."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .checkpoint_files import CheckpointError, LazyTensor


class Shapes:
    """Names and shapes of one network's tensors, asked for by name.

    Args:
        tensors: Of the network, without a prefix.
        where: The file or repository, for messages.
        prefix: What the names start with in the file, for messages.
    """

    def __init__(self, tensors: Mapping[str, LazyTensor], where: str, prefix: str = ""):
        self.tensors, self.where, self.prefix = tensors, where, prefix

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def of(self, name: str) -> tuple[int, ...]:
        """The shape of the tensor `name`.

        Raises:
            CheckpointError: There is none.
        """
        if name not in self.tensors:
            raise CheckpointError(
                f"{self.where}: 1 tensor is missing from which dimensions are read; is it a whole "
                "checkpoint of the right kind?",
                [f"missing: {self.prefix}{name}"],
            )
        return self.tensors[name].shape

    def count(self, prefix: str) -> int:
        """How many layers `prefix.0`, `prefix.1`, ... there are: the largest number plus one."""
        pattern = re.compile(rf"{re.escape(prefix)}\.(\d+)\.")
        numbers = [int(m[1]) for name in self.tensors if (m := pattern.match(name))]
        return max(numbers, default=-1) + 1

    def heads(self, width: int, per_head: int, setting: str, given: Any = None) -> int:
        """Attention heads, which no shape tells: `width` over the usual width of a head.

        Args:
            width: Of the network.
            per_head: What the published networks of this kind have.
            setting: Where a config file says the number, for the message.
            given: The number that it says, if it does.
        """
        if given is not None:
            if type(given) is int and given > 0 and width % given == 0:
                return given
            raise CheckpointError(
                f"{self.where}: {setting} is {given!r} in the config beside it, which does not "
                f"divide {width} channels"
            )
        if width % per_head:
            raise CheckpointError(
                f"{self.where}: {width} channels are not a multiple of {per_head}, so the number "
                f"of attention heads cannot be told; say it as {setting} in config.json beside it"
            )
        return width // per_head


def merged(inferred: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`inferred` with the values of `given`, which are believed; nested dicts are merged.

    Values of None say nothing, and so are what transformers writes into every config.

    Raises:
        TypeError: A value where a section is expected.
    """
    result = dict(inferred)
    for key, value in given.items():
        if isinstance(result.get(key), dict):
            result[key] = merged(result[key], section(given, key))
        elif value is not None:
            result[key] = value
    return result


def section(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of a config; empty if the config has none.

    Raises:
        TypeError: There is something else in its place.
    """
    value = settings.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} is {value!r}, no section")
    return value


def image_side(size: Any, where: str, multiple: int) -> int:
    """The side of the square images that a network takes, as a config says it: 1024, [1024, 1024].

    Args:
        size: What the config says.
        where: The config, for the message.
        multiple: What it must be a multiple of.

    Raises:
        CheckpointError: It is no such size.
    """
    sides = [size] if type(size) is int else list(size) if isinstance(size, list | tuple) else []
    are_numbers = len(sides) in (1, 2) and set(map(type, sides)) == {int}
    if are_numbers and sides[0] == sides[-1] > 0 == sides[0] % multiple:
        return sides[0]
    raise CheckpointError(
        f"{where}: image_size is {size!r}, which is no side of a square in multiples of "
        f"{multiple} pixels"
    )


def side_of(cells: int, where: str, what: str) -> int:
    """The side of a square of `cells`."""
    side = round(cells**0.5)
    if side * side != cells:
        raise CheckpointError(f"{where}: {what} are {cells}, no square; images must be square")
    return side


@contextlib.contextmanager
def dimensions_of(where: str) -> Iterator[None]:
    """Say what the matter is where a shape or a setting is not of the kind that was expected.

    Args:
        where: The file or repository, for the message.
    """
    try:
        yield
    except CheckpointError:
        raise
    except (
        TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RuntimeError,
    ) as error:  # fmt: skip
        raise CheckpointError(
            f"{where}: its dimensions cannot be told, a shape or the config beside it is not as "
            f"expected ({type(error).__name__}: {error})"
        ) from None
