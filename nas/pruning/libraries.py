"""Models by the names that libraries give them: `timm:NAME`, `torchvision:NAME`, `hf:NAME` or `hf:FOLDER`.

Nothing is imported but the library: a Hugging Face model whose own code would have to run is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from nas.runtime import OF_LIBRARIES
from search_spaces.core import first_line, unknown_name

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel of images / 255."""


class LibraryEntry(NamedTuple):
    """One library.

    Attributes:
        make: a model from its name, options, and whether weights come from a file.
        normalisation: what images of a model by that name are normalised by, where its own configuration says so.
        image_size: side in pixels of the images that it was trained on, likewise.
        classes: names of its classes, likewise.
    """

    make: Callable[[str, dict[str, Any], bool], nn.Module]
    normalisation: Callable[[str], Normalisation | None]
    image_size: Callable[[str], int | None]
    classes: Callable[[str], tuple[str, ...] | None]


def library_of(target: str) -> str | None:
    """The library whose model a name is; None for `module:function`."""
    prefix, colon, rest = target.partition(":")
    return prefix if colon and rest and prefix in LIBRARIES else None


def library_model(target: str, options: Mapping[str, Any], own_weights: bool) -> nn.Module:
    """The model of a library.

    Args:
        target: such as `timm:resnet18`.
        options: keyword arguments of `timm.create_model`, `torchvision.models.get_model` or `from_pretrained`; for the last one also
            `model_class`, by default the one that the configuration names.
        own_weights: a file has its weights: none are read, from a folder or elsewhere.

    Raises:
        ValueError: the library is missing, has no such model, or an option does not fit.
    """
    prefix, _, name = target.partition(":")
    with _explained(target):
        return LIBRARIES[prefix].make(name, dict(options), own_weights)


def own_normalisation(target: str) -> Normalisation | None:
    """What images are normalised by, as the configuration of a library's model says; None for others, and where it says nothing."""
    prefix = library_of(target)
    if prefix is None:
        return None
    with _explained(target):
        return LIBRARIES[prefix].normalisation(target.partition(":")[2])


def own_image_size(target: str) -> int | None:
    """The side in pixels of the images that a library's model was trained on; None for others, and where it says nothing."""
    prefix = library_of(target)
    if prefix is None:
        return None
    with _explained(target):
        return LIBRARIES[prefix].image_size(target.partition(":")[2])


def own_classes(target: str) -> tuple[str, ...] | None:
    """Names of a library's model's classes, in the order of its outputs; None for others, and where its configuration has none."""
    prefix = library_of(target)
    if prefix is None:
        return None
    with _explained(target):
        return LIBRARIES[prefix].classes(target.partition(":")[2])


@contextmanager
def _explained(target: str) -> Iterator[None]:
    prefix = target.partition(":")[0]
    try:
        yield
    except ImportError as error:
        package = "transformers" if prefix == "hf" else prefix
        raise ValueError(f"{target!r} needs a package that is missing ({error}); pip install {package}") from error
    except ValueError:
        raise
    except Exception as error:  # libraries raise many kinds
        raise ValueError(
            f"{target!r} must be a model of {prefix} that can be made here: {first_line(error)}"
        ) from error


def _timm(name: str, options: dict[str, Any], own_weights: bool) -> nn.Module:
    import timm

    if name.partition(".")[0] not in timm.list_models():
        raise unknown_name("model of timm", name, timm.list_models())
    return timm.create_model(name, **{"pretrained": False, **options})


def _timm_normalisation(name: str) -> Normalisation | None:
    import timm

    known = timm.models.get_pretrained_cfg(name)
    return None if known is None or known.mean is None else (tuple(known.mean), tuple(known.std))


def _timm_image_size(name: str) -> int | None:
    import timm

    known = timm.models.get_pretrained_cfg(name)
    return None if known is None or known.input_size is None else int(known.input_size[-1])


def _timm_classes(name: str) -> tuple[str, ...] | None:
    import timm

    known = timm.models.get_pretrained_cfg(name)
    names = None if known is None else getattr(known, "label_names", None)
    return tuple(names) if names else None


def _torchvision(name: str, options: dict[str, Any], own_weights: bool) -> nn.Module:
    from torchvision import models

    if name not in models.list_models():
        raise unknown_name("model of torchvision", name, models.list_models())
    return models.get_model(name, **{"weights": None, **options})


def _torchvision_normalisation(name: str) -> Normalisation | None:
    from torchvision import models

    transform = models.get_model_weights(name).DEFAULT.transforms()
    mean, std = getattr(transform, "mean", None), getattr(transform, "std", None)
    return None if mean is None or std is None else (tuple(mean), tuple(std))


def _torchvision_image_size(name: str) -> int | None:
    from torchvision import models

    size = getattr(models.get_model_weights(name).DEFAULT.transforms(), "crop_size", None)
    return None if not size else int(size[0])


def _torchvision_classes(name: str) -> tuple[str, ...] | None:
    from torchvision import models

    names = models.get_model_weights(name).DEFAULT.meta.get("categories")
    return tuple(names) if names else None


def _hugging_face(name: str, options: dict[str, Any], own_weights: bool) -> nn.Module:
    import transformers

    of_file = {key: options[key] for key in ("gguf_file",) if key in options}
    named = options.pop("model_class", None)
    config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False, **of_file)
    classes = [named] if named else list(config.architectures or ["AutoModel"])
    kind: Any = getattr(transformers, str(classes[0]), None)
    if not _is_of_models(kind):
        raise ValueError(
            f"'hf:{name}' must be of a class that transformers has, got {classes[0]}, whose own code is not "
            "run; give one by `model_class`"
        )
    if own_weights:
        return kind._from_config(config) if hasattr(kind, "_from_config") else kind.from_config(config)
    model = kind.from_pretrained(name, trust_remote_code=False, **options)
    if not isinstance(model, nn.Module):
        raise ValueError(f"'hf:{name}' must be a module, got {type(model).__name__}")
    return model


def _is_of_models(kind: object) -> bool:
    """Whether something of transformers is a class of models, or makes one."""
    return isinstance(kind, type) and (issubclass(kind, nn.Module) or kind.__name__.startswith("AutoModel"))


def _preprocessor(name: str) -> dict[str, Any]:
    """What a Hugging Face model's configuration says of images; empty where there is none."""
    from transformers.utils import cached_file

    path = cached_file(name, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    known: dict[str, Any] = {} if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
    return known


def _hugging_face_normalisation(name: str) -> Normalisation | None:
    known = _preprocessor(name)
    mean, std = known.get("image_mean"), known.get("image_std")
    return None if not mean or not std or known.get("do_normalize") is False else (tuple(mean), tuple(std))


def _hugging_face_image_size(name: str) -> int | None:
    known = _preprocessor(name)
    size = known.get("crop_size") if known.get("do_center_crop") else None
    size = size or known.get("size")
    if isinstance(size, Mapping):
        size = size.get("height") or size.get("shortest_edge")
    return int(size) if isinstance(size, int) else None


def _hugging_face_classes(name: str) -> tuple[str, ...] | None:
    import transformers

    named = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False).id2label
    names = tuple(str(named[number]) for number in sorted(named))
    return None if all(re.fullmatch(r"LABEL_\d+", one) for one in names) else names


LIBRARIES: dict[str, LibraryEntry] = {
    "timm": LibraryEntry(_timm, _timm_normalisation, _timm_image_size, _timm_classes),
    "torchvision": LibraryEntry(
        _torchvision, _torchvision_normalisation, _torchvision_image_size, _torchvision_classes
    ),
    "hf": LibraryEntry(_hugging_face, _hugging_face_normalisation, _hugging_face_image_size, _hugging_face_classes),
}
assert set(LIBRARIES) == set(OF_LIBRARIES)
