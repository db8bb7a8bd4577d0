"""Any convolutional or hierarchical backbone of Hugging Face transformers, by folder or hub name.

Only safetensors are read and no code from a checkpoint is ever run.
"""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import BaseModel, PositiveFloat, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from sonodetr.files import InputError, read_json

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STRIDES = (8, 16, 32)


class _Normalisation(BaseModel):
    """What `preprocessor_config.json` says of the input, for red, green, blue."""

    do_normalize: bool = True
    image_mean: tuple[float, float, float] = IMAGENET_MEAN
    image_std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = IMAGENET_STD


class HuggingFaceNetwork(nn.Module):
    """The maps of a transformers backbone at strides 8, 16 and 32; every parameter trains.

    Args:
        path: folder with `config.json` and safetensors, or a hub name.
        pretrained: False builds the same network with random weights; only the config is read.

    Attributes:
        channels: of the three maps that `forward` returns.
        mean: what the network wants subtracted from images in 0..1, for red, green, blue.
        std: and what it wants them divided by.

    Raises:
        InputError: transformers is not installed; nothing usable lies at `path`; or the network has
            no map at one of the strides.
    """

    def __init__(self, path: str, *, pretrained: bool) -> None:
        super().__init__()
        try:
            from transformers import AutoBackbone, AutoConfig
        except ImportError:
            raise InputError(
                "backbone huggingface needs transformers; run: pip install 'sonodetr[huggingface]'"
            ) from None
        check_folder(path, pretrained)
        with one_line(path):
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        stages = getattr(config, "stage_names", None)
        if not stages or getattr(config, "num_channels", 3) != 3:
            raise InputError(
                f"{path}: {config.model_type} is not a backbone for colour images in transformers; "
                "use for example a ResNet, ConvNeXt or Swin"
            )
        config.out_features = stages[1:]
        with one_line(path):
            self.model = AutoBackbone.from_config(config, trust_remote_code=False)
            if pretrained:
                # Not AutoBackbone.from_pretrained: transformers 5.23 asks the hub about folders.
                self.model, report = type(self.model).from_pretrained(
                    path, config=config, use_safetensors=True, output_loading_info=True
                )
                check_complete(path, report["missing_keys"])
        self.model.float().requires_grad_(True)
        self.indices, self.channels = self._find_maps(path)
        self.mean, self.std = normalisation(path)

    @torch.no_grad()
    def _find_maps(self, path: str) -> tuple[list[int], tuple[int, ...]]:
        """Which map lies at which stride, seen on a black picture; the deepest where several do."""
        self.model.eval()
        maps = self.model(torch.zeros(1, 3, 64, 64)).feature_maps
        self.model.train()
        strides = [64 // features.shape[-1] for features in maps]
        if not set(STRIDES) <= set(strides):
            raise InputError(f"{path}: has maps at strides {strides}, but 8, 16 and 32 are needed")
        indices = [len(strides) - 1 - strides[::-1].index(stride) for stride in STRIDES]
        return indices, tuple(maps[index].shape[1] for index in indices)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> list[Float[Tensor, "batch _ _ _"]]:
        """Feature maps at strides 8, 16 and 32."""
        maps = self.model(images).feature_maps
        return [maps[index] for index in self.indices]


def check_folder(path: str, pretrained: bool, what: str = "backbone") -> None:
    """Say what is wrong with a folder before transformers does, at length."""
    folder = Path(path)
    if not folder.is_dir():
        if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", path):
            raise InputError(f"{path}: no such folder; give a folder or a hub name (owner/name)")
        return
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: holds no config.json; save the {what} with save_pretrained")
    if pretrained and not any(folder.glob("*.safetensors")):
        pickled = [file.name for file in folder.glob("*.bin")]
        found = f"only {pickled[0]}, which could run code when opened" if pickled else "no weights"
        raise InputError(
            f"{folder}: holds {found}; save it again with save_pretrained, which writes safetensors"
        )


def check_complete(path: str, missing: Collection[str], what: str = "backbone") -> None:
    """A network that would start partly from random weights is refused."""
    # The norms on the outputs belong to the backbone alone; classifiers are saved without them.
    lacking = sorted(key for key in missing if "hidden_states_norms" not in key)
    if lacking:
        raise InputError(
            f"{path}: the weights lack {len(lacking)} tensors of the {what}, such as "
            f"{lacking[0]}; they belong to another network than config.json"
        )


@contextmanager
def one_line(path: str, what: str = "backbone") -> Iterator[None]:
    """Turn transformers' long explanations into one line."""
    from huggingface_hub.errors import StrictDataclassError  # of a config's wrong values

    unusable = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)
    try:
        yield
    except InputError:
        raise
    except (*unusable, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: transformers cannot load a {what} from it ({reason}); "
            "give a folder that save_pretrained wrote"
        ) from error


def normalisation(path: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation from the folder, ImageNet's where it says nothing."""
    from transformers.utils import cached_file

    try:
        source = cached_file(path, "preprocessor_config.json")
    except OSError:  # how transformers says that there is no such file
        return IMAGENET_MEAN, IMAGENET_STD
    try:
        values = _Normalisation.model_validate(read_json(source))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{source}: {key or 'the file'}: {first['msg']}") from None
    if not values.do_normalize:
        return (0.0,) * 3, (1.0,) * 3
    return values.image_mean, values.image_std
