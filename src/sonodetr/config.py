"""Everything a run can be told, as frozen typed objects. Imports no torch."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """Base of all sections: values cannot change later, unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class SplitConfig(Section):
    """Division of the frames. Recordings, patients and near-identical stills stay whole."""

    seed: int | None = Field(
        None, ge=0, lt=2**32, description="draws the division; empty: the seed of the run"
    )
    folds: int = Field(3, ge=2, description="number of parts the groups are dealt into")
    test_fold: int = Field(0, ge=0, description="the part held out for the test, 0 to folds - 1")
    validation_fraction: float = Field(
        0.15, gt=0, lt=1, description="share of the rest that chooses checkpoint and threshold"
    )
    similarity: float = Field(
        0.6, gt=0, le=1, description="stills whose correlation reaches this stay in one part"
    )
    by_folder: bool = Field(
        False,
        description="parts as the data names them: train/, validation/ and test/ begin its keys",
    )
    test_frames: tuple[tuple[int, int], ...] = Field(
        (), description="within-video check: first and last frame of each held-out stretch"
    )
    validation_frames: tuple[tuple[int, int], ...] = Field(
        (), description="within-video check: first and last frame of each validation stretch"
    )
    border_frames: int = Field(
        10, ge=0, description="within-video check: frames dropped beside each held-out stretch"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "SplitConfig":
        if self.test_fold >= self.folds:
            raise ValueError(f"test_fold {self.test_fold} must be below folds {self.folds}")
        if self.by_folder and self.test_frames:
            raise ValueError("by_folder takes the parts from the data; leave test_frames out")
        if bool(self.test_frames) != bool(self.validation_frames):
            raise ValueError("test_frames and validation_frames must be given together")
        if any(first > last for first, last in (*self.test_frames, *self.validation_frames)):
            raise ValueError("a stretch of frames must be given as first, last")
        return self


class AugmentConfig(Section):
    """Random changes of a training clip, the same for all its frames. 0 switches one off."""

    flip: float = Field(0.5, ge=0, le=1, description="chance of a left-right mirror")
    zoom: float = Field(1.5, ge=1, description="largest depth zoom in or out, as a factor")
    stretch: float = Field(1.15, ge=1, description="largest change of the aspect, as a factor")
    shift: float = Field(0.15, ge=0, lt=1, description="largest shift, as a share of the picture")
    rotate_deg: float = Field(8.0, ge=0, le=45, description="largest rotation in degrees")
    gain: float = Field(
        0.25, ge=0, lt=1, description="largest change of brightness, 1 = full scale"
    )
    dynamic_range: float = Field(1.5, ge=1, description="largest change of contrast, as a factor")
    gain_curve: float = Field(
        0.2, ge=0, lt=1, description="largest time-gain error along the depth"
    )
    speckle: float = Field(
        0.15, ge=0, le=1, description="largest relative strength of added speckle"
    )
    shadow: float = Field(0.2, ge=0, le=1, description="chance of an acoustic shadow")
    views: int = Field(
        0,
        ge=0,
        description="number of different views of a clip, the same in every run; "
        "0: a new one in every epoch",
    )


class DataConfig(Section):
    """Which frames, in which shape."""

    path: str = Field("", description="folder or annotation file, in any format that is read")
    images: str = Field("", description="folder of the pictures, where not beside the annotations")
    on_bad_label: Literal["error", "skip"] = Field(
        "error", description="stop at a bad label, or skip it"
    )
    labelled: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the training recordings whose labels are used; a teacher is asked "
        "about the rest",
    )
    unlabelled: str = Field("", description="more recordings, which only a teacher is asked about")
    image_size: tuple[int, int] = Field(
        (256, 256), description="height and width the model sees, in pixels"
    )
    channels: Literal[1, 3] = Field(1, description="1 for grey, 3 for colour")
    clip_frames: int = Field(1, ge=1, description="frames a clip, ending at the labelled one")
    clip_step: int = Field(1, ge=1, description="distance between the frames of a clip")
    region: Literal["auto", "full"] = Field(
        "auto",
        description="auto: only the ultrasound picture (named by the file, or found); full: all",
    )
    split: SplitConfig = SplitConfig()
    augment: AugmentConfig = AugmentConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "DataConfig":
        reach = (self.clip_frames - 1) * self.clip_step
        if self.split.test_frames and self.split.border_frames < reach:
            raise ValueError(
                f"clips reach back {reach} frames, so split.border_frames must be at least {reach}"
            )
        return self


class BackboneConfig(Section):
    """The network that turns a picture into features."""

    name: Literal["compact", "resnet", "efficientnet_lite0", "huggingface"] = Field(
        "compact", description="compact: our own small one; the others can carry ImageNet weights"
    )
    width: int = Field(32, ge=8, description="compact, resnet: channels of the first stage")
    depths: tuple[int, ...] = Field(
        (1, 2, 2, 1), description="compact, resnet: blocks in each of four stages"
    )
    bottleneck: bool = Field(False, description="resnet: bottleneck blocks, as in ResNet-50")
    stride: Literal[16, 32] = Field(16, description="input pixels a token, along each side")
    pretrained: bool = Field(
        False, description="start from ImageNet weights, where the backbone has them"
    )
    path: str = Field("", description="huggingface: folder or hub name of the backbone")
    temporal: Literal["none", "mixing", "factorised"] = Field(
        "none",
        description="clips: frames meet in the encoder only; once before it; after every stage",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "BackboneConfig":
        if self.name == "huggingface" and self.temporal == "factorised":
            raise ValueError("temporal factorised needs a backbone of our own; use mixing or none")
        if (self.name == "huggingface") != bool(self.path):
            raise ValueError("path is needed with name: huggingface, and only there")
        if len(self.depths) != 4 or min(self.depths) < 1:
            raise ValueError(f"depths {self.depths} must be four numbers of at least 1")
        if self.pretrained and self.name not in ("efficientnet_lite0", "huggingface"):
            raise ValueError(
                f"there are no ImageNet weights for {self.name}, only for efficientnet_lite0 "
                "and huggingface"
            )
        return self


class ModelConfig(Section):
    """The detection transformer (docs/method.md)."""

    backbone: BackboneConfig = BackboneConfig()
    hidden_dim: int = Field(128, ge=16, description="width of the transformer")
    num_heads: int = Field(8, ge=1, description="attention heads")
    encoder_layers: int = Field(2, ge=0, description="encoder layers")
    decoder_layers: int = Field(3, ge=1, description="decoder layers")
    feedforward_dim: int = Field(512, ge=16, description="width inside the feed-forward blocks")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout in the feed-forward blocks and residuals"
    )
    queries: Literal["anchor", "learned"] = Field(
        "anchor", description="anchor: 4-D boxes refined layer by layer; learned: DETR as published"
    )
    num_queries: int = Field(32, ge=1, description="most objects found in a frame")
    query_groups: int = Field(
        4, ge=1, description="anchor: groups of queries in training; one at inference"
    )
    classification: Literal["focal", "softmax"] = Field(
        "focal",
        description="focal: one sigmoid a class; softmax: with a no-object class, as published",
    )
    points: bool = Field(False, description="also predict two points a detection: tip and entry")
    weights: str = Field(
        "", description="run folder, bundled model or .safetensors file to start from"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "ModelConfig":
        if self.hidden_dim % (4 * self.num_heads):
            raise ValueError(
                f"hidden_dim {self.hidden_dim} must be a multiple of 4 x {self.num_heads} heads"
            )
        if self.queries == "anchor" and self.hidden_dim % 8:
            raise ValueError(f"hidden_dim {self.hidden_dim} must be a multiple of 8 with anchors")
        return self


class LossConfig(Section):
    """Weights of the set loss; the same weights price a pair in the matching."""

    classification: float = Field(2.0, ge=0, description="weight of the class term")
    box_l1: float = Field(5.0, ge=0, description="weight of the L1 distance of boxes")
    box_giou: float = Field(2.0, ge=0, description="weight of the generalised IoU")
    points: float = Field(5.0, ge=0, description="weight of the L1 distance of points")
    dense: float = Field(1.0, ge=0, description="anchor: weight of the loss of proposals")
    no_object: float = Field(0.1, gt=0, description="softmax: weight of the no-object class")
    focal_alpha: float = Field(0.25, gt=0, lt=1, description="focal: weight of the positive term")
    focal_gamma: float = Field(2.0, ge=0, description="focal: how much easy examples are ignored")
    auxiliary: bool = Field(True, description="apply the loss after every decoder layer")


class TrainConfig(Section):
    """The optimisation."""

    epochs: int = Field(100, ge=1, description="passes over the training frames")
    batch_size: int = Field(8, ge=1, description="clips a step and device")
    learning_rate: float = Field(4e-4, gt=0, description="peak rate of the transformer")
    backbone_rate: float = Field(
        0.25, ge=0, description="rate of the backbone, as a share of learning_rate; 0 freezes it"
    )
    weight_decay: float = Field(
        1e-4, ge=0, description="AdamW weight decay (not on norms and biases)"
    )
    warmup_steps: int = Field(100, ge=0, description="steps of linear warm-up, then cosine to zero")
    gradient_clip: float = Field(0.5, gt=0, description="largest gradient norm")
    ema_decay: float = Field(0.998, ge=0, lt=1, description="weight averaging; 0 switches it off")
    precision: Literal["no", "bf16", "fp16"] = Field("no", description="mixed precision")
    workers: int = Field(2, ge=0, description="processes that load data")
    validate_epochs: int = Field(5, ge=1, description="epochs between validations")
    patience: int = Field(
        0, ge=0, description="validations without a better AP before stopping; 0 never stops early"
    )
    checkpoint_seconds: float = Field(
        60.0, ge=0, description="longest time between two checkpoints; 0 is every step"
    )


class LossTermConfig(Section):
    """One distillation loss: its weight, and until when."""

    weight: float = Field(0.0, ge=0, description="weight beside the detection loss; 0 is without")
    until: float = Field(
        0.0,
        ge=0,
        le=1,
        description="the weight falls evenly to 0 at this share of the training; 0: it stays",
    )


class AttentionTermConfig(LossTermConfig):
    """An attention distillation loss."""

    layers: tuple[tuple[int, int], ...] = Field(
        (), description="pairs of student and teacher layer, 0 is the first; empty: evenly paired"
    )


class DistillConfig(Section):
    """What the student learns from a teacher (docs/distillation.md)."""

    teacher: str = Field(
        "",
        description="run folder, bundled model or Hugging Face detector; empty: no distillation",
    )
    encoder: AttentionTermConfig = Field(
        AttentionTermConfig(), description="encoder self-attention"
    )
    decoder: AttentionTermConfig = Field(
        AttentionTermConfig(), description="decoder self-attention of the teacher's queries"
    )
    cross: AttentionTermConfig = Field(
        AttentionTermConfig(), description="cross-attention of the teacher's queries"
    )
    detections: LossTermConfig = Field(
        LossTermConfig(), description="classes, boxes and points, matched teacher to student"
    )
    memory: LossTermConfig = Field(LossTermConfig(), description="encoder-memory features")
    heads: Literal["grouped", "mean"] = Field(
        "grouped", description="heads are paired in groups, or all averaged"
    )
    time: Literal["sum", "current"] = Field(
        "sum",
        description="attention of a 3D teacher to its frames: summed, or the current frame's alone",
    )
    background: float = Field(
        0.1, gt=0, le=1, description="weight of a row far from every box, against 1 inside"
    )
    cache: str = Field(
        "",
        description="folder that keeps the teacher's targets of all data.augment.views; "
        "empty: the teacher runs along",
    )
    unlabelled_batch: int = Field(
        8, ge=1, description="clips without labels in every step, beside the labelled ones"
    )
    shuffle: bool = Field(
        False, description="control: maps of other clips of the batch instead of the clip's own"
    )


class Config(Section):
    """A whole run."""

    name: str = Field(
        "run", pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$", description="name of the run folder"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="same seed, same bits on the same machine")
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    distill: DistillConfig = DistillConfig()

    @model_validator(mode="after")
    def _enough_cells(self) -> "Config":
        stride, (height, width) = self.model.backbone.stride // 2, self.data.image_size
        cells = -(-height // stride) * -(-width // stride)
        if self.model.queries == "anchor" and cells < self.model.num_queries:
            raise ValueError(
                f"{height} x {width} pixels at model.backbone.stride {2 * stride} are {cells} "
                f"cells to start from, fewer than model.num_queries {self.model.num_queries}"
            )
        return self

    @model_validator(mode="after")
    def _time_to_see(self) -> "Config":
        temporal = self.model.backbone.temporal
        if temporal == "none":
            blind = self.model.queries == "anchor" and self.model.encoder_layers == 0
            if blind and self.data.clip_frames > 1:
                raise ValueError(
                    f"data.clip_frames {self.data.clip_frames} would change nothing: without "
                    "encoder layers frames never meet; set model.encoder_layers=1 or more, or "
                    "model.backbone.temporal"
                )
            return self
        if self.data.clip_frames == 1:
            raise ValueError(
                f"model.backbone.temporal {temporal} needs a clip; set data.clip_frames=2 or more, "
                "or temporal: none"
            )
        if self.train.backbone_rate == 0:
            raise ValueError(
                f"train.backbone_rate 0 would freeze model.backbone.temporal {temporal} where it "
                "starts, without effect; set a rate above 0, or temporal: none"
            )
        return self
