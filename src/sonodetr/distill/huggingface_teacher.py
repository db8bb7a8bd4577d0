"""A detector saved by Hugging Face transformers as a `Teacher`, where its attention is dense.

A family of detectors is a function that reads transformers' answer into a `_View`, and one `case`
in `_family`. docs/distillation_teachers.md says which families there are, and why not others.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sonodetr.distill.teachers import (
    AttentionShape,
    Teacher,
    check_capture,
    check_frames,
    fingerprint,
    in_channels,
)
from sonodetr.files import InputError, read_json
from sonodetr.model.detr import Capture
from sonodetr.model.huggingface import check_complete, check_folder, normalisation, one_line
from sonodetr.model.tensors import Attention, Grid, Outputs

THRESHOLD = 0.5  # what transformers' own post-processing keeps by default
PROBE_SIZE = (256, 256)  # enough tokens for all queries of two-stage detectors
# Fields of config.json that tell where a model came from, not what it answers.
_ORIGIN = {"_name_or_path", "architectures", "dtype", "transformers_version"}


class _View(NamedTuple):
    """What a family's answer says, with tokens that lie on one grid; no maps of a kind: ()."""

    logits: Float[Tensor, "layers batch queries classes"]
    boxes_cxcywh: Float[Tensor, "layers batch queries 4"]
    memory: Float[Tensor, "batch tokens dim"]
    queries: Float[Tensor, "batch queries dim"]
    grid: Grid
    encoder: Sequence[Float[Tensor, "batch heads tokens tokens"]]
    decoder: Sequence[Float[Tensor, "batch heads queries queries"]] = ()
    cross: Sequence[Float[Tensor, "batch heads queries tokens"]] = ()


class _Family(NamedTuple):
    """How logits turn into scores, how to read the answer, and whether maps form a pyramid."""

    classification: str
    view: Callable[[Any, Any, tuple[int, int]], _View]
    pyramid: bool = False


def _family(model_type: str, name: str) -> _Family:
    match model_type:
        case "detr" | "table-transformer":
            return _Family("softmax", _encoder_decoder)
        case "conditional_detr" | "dab-detr":
            return _Family("focal", _encoder_decoder)
        case "rt_detr" | "rt_detr_v2" | "d_fine" | "deimv2":
            return _Family("focal", _hybrid_encoder, pyramid=True)
        case "yolos":
            return _Family("softmax", _vision_transformer)
    raise InputError(
        f"teacher {name}: {model_type} has no dense attention over the picture in transformers "
        "(deformable attention samples points, windows see a part); use detr, table-transformer, "
        "conditional_detr, dab-detr, yolos, rt_detr, rt_detr_v2, d_fine or deimv2"
    )


def _encoder_decoder(model: Any, output: Any, size: tuple[int, int]) -> _View:
    """DETR, Table Transformer, Conditional DETR, DAB-DETR: one feature map, all attention dense."""
    base = model.model
    memory = output.encoder_last_hidden_state
    content = output.decoder_hidden_states[0]
    if model.config.model_type == "dab-detr":
        positions = _anchor_positions(base, content.shape[1])
    else:
        positions = base.query_position_embeddings.weight
    return _View(
        output.logits[None],
        output.pred_boxes[None],
        memory,
        content + positions,  # content is zero, but for patterns of DAB-DETR
        _grid(memory.shape[1], size),
        output.encoder_attentions or (),
        output.decoder_attentions or (),
        output.cross_attentions or (),
    )


def _anchor_positions(base: Any, queries: int) -> Float[Tensor, "queries dim"]:
    """Positions of DAB-DETR's anchors as its first decoder layer sees them; repeated for each
    pattern of queries (Liu et al. 2022, section 4.2)."""
    from transformers.models.dab_detr.modeling_dab_detr import encode_sinusoidal_position_embedding

    anchors = base.query_refpoint_embeddings.weight.sigmoid()
    sine = encode_sinusoidal_position_embedding(anchors[None], num_pos_feats=base.hidden_size // 2)
    positions = base.decoder.ref_point_head(sine)[0]
    return positions.repeat(queries // len(positions), 1)


def _hybrid_encoder(model: Any, output: Any, size: tuple[int, int]) -> _View:
    """RT-DETR and its kin: dense encoder attention within one map, decoder attention to sampled
    points of three; the decoder starts from proposals."""
    features = output.encoder_last_hidden_state[-1]  # attention is within the coarsest map
    return _View(
        torch.stack((output.enc_topk_logits, output.logits)),
        torch.stack((output.enc_topk_bboxes, output.pred_boxes)),
        features.flatten(2).transpose(1, 2),
        output.decoder_hidden_states[0],
        Grid(1, *features.shape[-2:]),
        output.encoder_attentions or (),
        output.decoder_attentions or (),
    )


def _vision_transformer(model: Any, output: Any, size: tuple[int, int]) -> _View:
    """YOLOS: one sequence of a class token, the patches, and the detection tokens.

    Of its maps stays what patches look at in patches, each row scaled to sum to one again.
    """
    patch, detections = model.config.patch_size, model.config.num_detection_tokens
    grid = Grid(1, size[0] // patch, size[1] // patch)
    patches = slice(1, 1 + grid.height * grid.width)
    kept = [maps[:, :, patches, patches] for maps in output.attentions or ()]
    return _View(
        output.logits[None],
        output.pred_boxes[None],
        output.last_hidden_state[:, patches],
        output.hidden_states[0][:, -detections:],
        grid,
        [maps / maps.sum(-1, keepdim=True) for maps in kept],
    )


def _grid(tokens: int, size: tuple[int, int]) -> Grid:
    """How the tokens of one feature map lie on a picture; backbones round sizes up.

    ceil(H / s) * ceil(W / s) tokens put sqrt(H * W / tokens) between s / 2 and s, so among powers
    of two there is one answer (for sides of at least s).
    """
    stride = 2 ** math.ceil(math.log2(math.sqrt(size[0] * size[1] / tokens)))
    grid = Grid(1, *(-(-side // stride) for side in size))
    if grid.height * grid.width != tokens:
        raise InputError(
            f"pictures of {size[0]} x {size[1]} pixels give the teacher {tokens} tokens, which is "
            f"no grid of stride {stride}; make data.image_size multiples of {stride}"
        )
    return grid


def _check_pyramid(config: Any, size: tuple[int, int], name: str) -> None:
    """Maps of a pyramid are laid over each other and give the queries: they must fit and suffice.

    Raises:
        InputError: they do not at this size.
    """
    coarsest = max(config.feat_strides)
    cells = sum((size[0] // stride) * (size[1] // stride) for stride in config.feat_strides)
    if size[0] % coarsest or size[1] % coarsest or cells < config.num_queries:
        raise InputError(
            f"teacher {name} cannot see {size[0]} x {size[1]} pixels: sides must be multiples of "
            f"{coarsest} and give at least {config.num_queries} cells; change data.image_size"
        )


class HuggingFaceTeacher:
    """A detector of transformers as a `Teacher`: it sees the last frame of a clip, in colour.

    Pictures are normalised as the folder's `preprocessor_config.json` says, and not resized.

    Args:
        model: in evaluation mode, with eager attention.
        mean: subtracted from pictures in 0..1, for red, green, blue.
        std: divides them afterwards.
        name: how errors call it.

    Raises:
        InputError: the model is of a family without dense attention, or returns none.
    """

    def __init__(
        self, model: Any, mean: tuple[float, ...], std: tuple[float, ...], name: str
    ) -> None:
        config = model.config
        self.model = model.eval().requires_grad_(False)
        self.name = name
        self.family = _family(config.model_type, name)
        self.mean, self.std = (torch.tensor(value)[:, None, None] for value in (mean, std))
        self.classes: tuple[str, ...] = tuple(config.id2label[i] for i in range(config.num_labels))
        self.threshold = THRESHOLD
        self.clip_frames = self.clip_step = 1
        fixed = getattr(config, "anchor_image_size", None)
        self.image_size: tuple[int, int] | None = tuple(fixed) if fixed else None
        self.classification: str = self.family.classification
        settings = json.loads(config.to_json_string(use_diff=False))
        settings = {key: value for key, value in settings.items() if key not in _ORIGIN}
        self.fingerprint = fingerprint(model, {"model": settings, "norm": [mean, std]})
        view = self._look(torch.zeros(1, 3, *(self.image_size or PROBE_SIZE)), attention=True)
        maps = (view.encoder, view.decoder, view.cross)
        self.layers = AttentionShape(*map(len, maps))
        self.heads = AttentionShape(*(layers[0].shape[1] if layers else 0 for layers in maps))
        tokens = view.grid.height * view.grid.width
        if not any(maps) or any(layer.shape[-2:] != (tokens, tokens) for layer in view.encoder):
            raise InputError(
                f"teacher {name}: returns no attention over one grid of tokens; "
                "use a detector with dense encoder attention on one feature map"
            )

    def to(self, device: torch.device | str) -> Teacher:
        """The same teacher on `device`."""
        self.model.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    def __call__(
        self, images: Float[Tensor, "batch channels time height width"], capture: Capture
    ) -> Outputs:
        """See `Teacher`. RT-DETR's kin return their proposals and the answer, others the answer.

        Raises:
            InputError: the pictures have a size or channels it does not take, or a layer is asked
                for that it does not have.
        """
        check_capture(self, capture)
        check_frames(self, images, self.name)
        frame = in_channels(images[:, :, -1:], 3, self.name)[:, :, 0]
        view = self._look(frame, attention=any(capture))
        asked = zip((view.encoder, view.decoder, view.cross), capture, strict=True)
        return Outputs(
            logits=view.logits,
            boxes_cxcywh=view.boxes_cxcywh,
            points=None,
            memory=view.memory,
            queries=view.queries,
            grid=view.grid,
            groups=1,
            attention=Attention(*({n: maps[n] for n in numbers} for maps, numbers in asked)),
        )

    @torch.no_grad()
    def _look(self, frame: Float[Tensor, "batch 3 height width"], *, attention: bool) -> _View:
        size = (frame.shape[-2], frame.shape[-1])
        if self.family.pyramid:
            _check_pyramid(self.model.config, size, self.name)
        output = self.model(
            pixel_values=(frame - self.mean) / self.std,
            output_attentions=attention,
            output_hidden_states=True,
        )
        return self.family.view(self.model, output, size)


def open_huggingface(path: str | Path) -> HuggingFaceTeacher:
    """The detector in a folder that transformers' `save_pretrained` wrote, as a teacher.

    Only safetensors are read, no code of the folder is run and nothing is fetched.

    Args:
        path: holds config.json, safetensors, and the image processor's preprocessor_config.json.

    Raises:
        InputError: transformers is not installed; a file is missing, pickled or does not fit; or
            the detector's family has no dense attention.
    """
    folder = Path(path)
    check_folder(str(folder), True, "detector")
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise InputError(f"{folder / 'config.json'}: is not the config of a detector")
    _family(str(config.get("model_type")), str(folder))  # before anything is loaded
    if not (folder / "preprocessor_config.json").is_file():
        raise InputError(
            f"{folder}: holds no preprocessor_config.json, so it is unknown how the detector's "
            "pictures were normalised; save its image processor there with save_pretrained"
        )
    try:
        from transformers import AutoModelForObjectDetection
    except ImportError:
        raise InputError(
            f"{folder}: needs transformers; run: pip install 'sonodetr[huggingface]'"
        ) from None
    mean, std = normalisation(str(folder))
    with one_line(str(folder), "detector"):
        model, report = AutoModelForObjectDetection.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            attn_implementation="eager",  # fused attention has no matrix to return
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
        check_complete(str(folder), report["missing_keys"], "detector")
        for key, stored, wanted in sorted(report["mismatched_keys"]):
            raise InputError(
                f"{folder}: {key} has the shape {list(stored)}, but config.json asks for "
                f"{list(wanted)}; the weights belong to another network"
            )
        return HuggingFaceTeacher(model.float(), mean, std, str(folder))
