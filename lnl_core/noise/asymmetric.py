"""Asymmetric noise: a class turns into the one that people mistake it for.

Maps: `cifar10` (truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog); `superclass-next`, the next class
of the same CIFAR-100 superclass; two legacy variants by name, `superclass-random` (any other class of the superclass)
and `index-block5` (the next class in a block of five consecutive numbers, of which 94 in 100 leave the superclass);
or a map of the user's own. Classes are found by name, so their numbers do not matter.
Source: Patrini et al., Making Deep Neural Networks Robust to Label Noise, CVPR 2017.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from lnl_core.config import ConfigError
from lnl_core.contracts import IntArray
from lnl_core.noise import NOISE_TYPES
from lnl_core.noise.source import Counting, NoiseConfig, NoiseSource, Rows, chosen_in_classes, chosen_rows

CIFAR10_MAP = {"truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat"}
SUPERCLASSES = {  # the 20 superclasses of CIFAR-100 (Krizhevsky 2009), their classes in order of number
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}


class AsymmetricConfig(NoiseConfig):
    """Which class turns into which, and how many rows do."""

    rate: float = Field(default=0.4, ge=0.0, le=1.0)
    map: Literal["cifar10", "superclass-next", "superclass-random", "index-block5", "user"] = "cifar10"
    user_map: dict[int | str, int | str] = Field(
        default_factory=dict
    )  # class (name or number) -> class (name or number)
    # per_class: this share of each mapped class. all_rows: this share of all rows is drawn, and those whose class is
    # not in the map stay as they are. Either way "40 %" with the CIFAR-10 map, half of the classes, is 20 % overall.
    basis: Literal["per_class", "all_rows"] = "per_class"
    counting: Counting = "exact"

    @model_validator(mode="after")
    def _map_is_given(self) -> AsymmetricConfig:
        if (self.map == "user") != bool(self.user_map):
            raise ValueError("user_map belongs to map: user, and only to it")
        return self

    @property
    def protocol_name(self) -> str:
        return f"{self.map}, {self.basis}"


@NOISE_TYPES.register(
    "asymmetric",
    config=AsymmetricConfig,
    summary="a class turns into a similar one: CIFAR-10 map, CIFAR-100 superclass, or a map of your own",
    source="Patrini et al., CVPR 2017",
)
def asymmetric(source: NoiseSource, config: AsymmetricConfig, generator: np.random.Generator) -> IntArray:
    """Noisy labels [n]."""
    targets = target_classes(config, source.class_names)
    noisy = source.true_label.copy()
    for row in _rows(source, targets, config, generator):
        choices = targets[int(source.true_label[row])]
        noisy[row] = choices[0] if len(choices) == 1 else generator.choice(choices)
    return noisy


def target_classes(config: AsymmetricConfig, class_names: Sequence[str]) -> dict[int, tuple[int, ...]]:
    """Class -> the classes it may turn into, with equal chance; classes that stay are absent.

    Raises:
        ConfigError: the map speaks of a class that the data do not have.
    """
    if config.map == "cifar10":
        return _named_map(CIFAR10_MAP, class_names, "the CIFAR-10 map")
    if config.map == "user":
        return _named_map(config.user_map, class_names, "inject.asymmetric.user_map")
    if config.map == "index-block5":
        return _index_blocks(len(class_names))
    return _superclass_map(class_names, to_all=config.map == "superclass-random")


def _rows(
    source: NoiseSource, targets: dict[int, tuple[int, ...]], config: AsymmetricConfig, generator: np.random.Generator
) -> Rows:
    if config.basis == "all_rows":
        rows = chosen_rows(np.arange(len(source.true_label)), config.rate, config.counting, generator)
        return rows[np.isin(source.true_label[rows], list(targets))]
    return chosen_in_classes(source.true_label, sorted(targets), config.rate, config.counting, generator)


def _named_map(named: Mapping[Any, int | str], class_names: Sequence[str], what: str) -> dict[int, tuple[int, ...]]:
    numbers = {_plain(name): number for number, name in enumerate(class_names)}
    numbers |= {str(number): number for number in range(len(class_names)) if str(number) not in numbers}
    missing = [name for pair in named.items() for name in pair if _plain(str(name)) not in numbers]
    if missing:
        raise ConfigError(
            f"{what}: {missing[0]!r} is no class of the data (classes: {', '.join(class_names[:10])}"
            f"{', ...' if len(class_names) > 10 else ''}; or 0 to {len(class_names) - 1}); correct the map"
        )
    return {numbers[_plain(str(name))]: (numbers[_plain(str(target))],) for name, target in named.items()}


def _index_blocks(classes: int) -> dict[int, tuple[int, ...]]:
    if classes % 5:
        raise ConfigError(f"inject.asymmetric.map = 'index-block5': {classes} classes do not form blocks of five")
    return {number: (5 * (number // 5) + (number + 1) % 5,) for number in range(classes)}


def _superclass_map(class_names: Sequence[str], *, to_all: bool) -> dict[int, tuple[int, ...]]:
    numbers = {_plain(name): number for number, name in enumerate(class_names)}
    missing = [name for group in SUPERCLASSES.values() for name in group if name not in numbers]
    if missing or len(class_names) != 100:
        raise ConfigError(
            f"inject.asymmetric.map: the superclass maps need CIFAR-100's 100 class names; {len(missing)} of them are "
            f"missing ({', '.join(missing[:3])} ...); use map: user, or set the dataset's class_names"
        )
    result = {}
    for group in SUPERCLASSES.values():
        members = sorted(numbers[name] for name in group)
        for place, number in enumerate(members):
            following = members[(place + 1) % len(members)]
            result[number] = tuple(other for other in members if other != number) if to_all else (following,)
    return result


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_")
