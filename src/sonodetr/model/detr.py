"""The detection transformer: backbone, encoder, decoder, heads."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sonodetr.config import ModelConfig
from sonodetr.model.backbone import Features, build_backbone
from sonodetr.model.dense import DenseHead, FineMemory, choose
from sonodetr.model.linear import Linear
from sonodetr.model.position import (
    BoxFocus,
    Perceptron,
    box_points,
    box_positions,
    grid_positions,
    logit,
)
from sonodetr.model.tensors import Attention, Dense, Grid, Outputs
from sonodetr.model.transformer import DecoderLayer, EncoderLayer

Maps = dict[int, Tensor]  # number of the layer -> its attention probabilities


class Capture(NamedTuple):
    """Which layers (0 is the first) return their attention probabilities."""

    encoder: tuple[int, ...] = ()
    decoder: tuple[int, ...] = ()
    cross: tuple[int, ...] = ()


class Guide(NamedTuple):
    """A teacher's queries, for which a student shows its own maps, row by row; they answer
    nothing.

    Attributes:
        queries: as `Outputs.queries`, in the width of this model.
        anchors: boxes cxcywh in 0..1 that they start from; learned queries have none.
    """

    queries: Float[Tensor, "batch queries dim"]
    anchors: Float[Tensor, "batch queries 4"] | None


class Memory(NamedTuple):
    """What the encoder made of the clips: tokens, the same plus positions, and their grid."""

    tokens: Float[Tensor, "batch tokens dim"]
    positioned: Float[Tensor, "batch tokens dim"]
    grid: Grid


class Embedded(NamedTuple):
    """Clips as the encoder takes them.

    Attributes:
        tokens: of all frames.
        grid: how they lie on the pictures.
        fine: the backbone's finer map of the last frame, with anchors.
    """

    tokens: Float[Tensor, "batch tokens dim"]
    grid: Grid
    fine: Float[Tensor, "batch channels height width"] | None


class _Decoded(NamedTuple):
    features: Float[Tensor, "layers batch queries dim"]
    boxes_cxcywh: Float[Tensor, "layers batch queries 4"]
    decoder_maps: Maps
    cross_maps: Maps


class DETR(nn.Module):
    """Set prediction with a transformer (Carion et al. 2020), with learned or anchor queries.

    Learned queries are DETR as published. Anchor queries are 4-D boxes that start as the proposals
    of a finer grid (`sonodetr.model.dense`), that every decoder layer refines (Liu et al. 2022,
    DAB-DETR) and that steer the cross-attention (`BoxFocus`); in training several groups of them
    compete for the objects independently (Chen et al. 2023, Group DETR).

    Args:
        config: the model's shape.
        num_classes: object classes, without "no object".
        channels: 1 or 3 image channels.

    Example:
        >>> model = DETR(ModelConfig(num_queries=5), num_classes=2).eval()
        >>> model(torch.rand(3, 1, 1, 64, 96)).boxes_cxcywh.shape  # of 3 decoder layers
        torch.Size([3, 3, 5, 4])
    """

    def __init__(self, config: ModelConfig, num_classes: int, channels: int = 1) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        dim, heads = config.hidden_dim, config.num_heads
        shape = (dim, heads, config.feedforward_dim, config.dropout)
        self.anchored = config.queries == "anchor"
        self.backbone = build_backbone(config.backbone, channels, fine=self.anchored)
        self.projection = nn.Conv2d(self.backbone.channels, dim, 1)
        self.encoder = nn.ModuleList(EncoderLayer(*shape) for _ in range(config.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*shape) for _ in range(config.decoder_layers))
        self.decoder_norm = nn.LayerNorm(dim)
        # Only anchors train in groups: learned queries stay DETR as published.
        self.groups = config.query_groups if self.anchored else 1
        self.queries = nn.Embedding(config.num_queries * self.groups, dim)
        if self.anchored:
            self.token_norm = nn.LayerNorm(dim)
            self.fine_memory = FineMemory(self.backbone.fine_channels, dim)
            self.dense_head = DenseHead(dim, num_classes, points=config.points)
            self.proposals = nn.ModuleList(
                nn.Sequential(Linear(dim, dim), nn.LayerNorm(dim)) for _ in range(self.groups)
            )
            self.anchor_positions = Perceptron(dim, dim, dim)
            self.box_focus = nn.ModuleList(
                BoxFocus(dim, heads) for _ in range(config.decoder_layers)
            )
            # Each layer refines boxes that are already better, so each has a head of its own.
            self.refinements = nn.ModuleList(
                Perceptron(dim, dim, dim, 4) for _ in range(config.decoder_layers)
            )
        else:
            self.box_head = Perceptron(dim, dim, dim, 4)
        outputs = num_classes + (config.classification == "softmax")
        self.class_head = nn.Linear(dim, outputs)
        self.point_head = Perceptron(dim, dim, 4) if config.points else None
        # Also the answers of every layer: losses want them, an export does not.
        self.auxiliary = True
        # What a teacher's losses need beside the model; never saved with its weights.
        self.training_only = nn.ModuleDict()
        self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and name.startswith(("encoder", "decoder")):
                nn.init.xavier_uniform_(parameter)
        if self.config.classification == "focal":
            # Every class starts at a score of 0.01 (Lin et al. 2017, section 4.1).
            nn.init.constant_(self.class_head.bias, -math.log(99))
        if self.anchored:
            for head in self.refinements:
                for parameter in head[-1].parameters():  # type: ignore[index]
                    nn.init.zeros_(parameter)  # boxes start where their proposal is

    def forward(
        self,
        images: Float[Tensor, "batch channels time height width"],
        capture: Capture = Capture(),  # noqa: B008  (immutable)
        guide: Guide | None = None,
    ) -> Outputs:
        """Detect in the last frame of each clip.

        Args:
            images: values in 0..1.
            capture: layers whose attention is returned.
            guide: queries to take the decoder's maps from, instead of the model's own.

        Returns:
            Outputs of every decoder layer; in training for all query groups, else for the first.
        """
        return self.detect(self.embed(images), capture, guide)

    def detect(self, embedded: Embedded, capture: Capture, guide: Guide | None = None) -> Outputs:
        """Encoder, decoder and heads: what `forward` does with what `embed` gives."""
        tokens, grid, fine = embedded
        positions = grid_positions(grid, self.config.hidden_dim).to(tokens)
        encoder_maps: Maps = {}
        for number, layer in enumerate(self.encoder):
            tokens, probabilities = layer(tokens, positions, capture=number in capture.encoder)
            _keep(encoder_maps, number, probabilities)
        memory = Memory(tokens, tokens + positions, grid)
        groups = self.groups if self.training else 1
        queries = self.queries.weight[: self.config.num_queries * groups]
        decode = self._decode_anchors if self.anchored else self._decode_learned
        dense = anchors = None
        if fine is None:
            queries = queries.expand(len(tokens), -1, -1)
        else:
            memory = self._refine(tokens, grid, fine)
            dense = self.dense_head(memory.tokens, memory.grid)
            proposed, anchors = self._propose(dense, memory, groups)
            queries = queries + proposed
        own = decode(queries, anchors, memory, groups, capture)
        features, boxes = own.features, own.boxes_cxcywh
        if guide is not None:
            own = decode(guide.queries, guide.anchors, memory, 1, capture)
        points = None
        if self.point_head is not None:
            points = box_points(boxes, self.point_head(features))
        return Outputs(
            logits=self.class_head(features),
            boxes_cxcywh=boxes,
            points=points,
            memory=tokens,
            queries=queries,
            grid=grid,
            groups=groups,
            attention=Attention(encoder_maps, own.decoder_maps, own.cross_maps),
            anchors=anchors,
            dense=dense,
        )

    def embed(self, images: Float[Tensor, "batch channels time height width"]) -> Embedded:
        """Backbone features as tokens, before the encoder, and the grid they lie on.

        A token knows its own frame and, where the backbone has blocks over time, earlier ones.
        """
        time = images.shape[2]
        frames = images.transpose(1, 2).flatten(0, 1)  # [batch x time, channels, height, width]
        return self.tokens(self.backbone.see(frames, time), time)

    def tokens(self, seen: Features, time: int) -> Embedded:
        """The rest of `embed`, after `Backbone.see`: live use sees each frame only once."""
        features = self.projection(self.backbone.join(seen.coarse, time))
        grid = Grid(time, *features.shape[-2:])
        tokens = features.flatten(2).transpose(1, 2).reshape(-1, math.prod(grid), features.shape[1])
        fine = None if seen.fine is None else seen.fine[time - 1 :: time]
        return Embedded(self.token_norm(tokens) if self.anchored else tokens, grid, fine)

    def _decode_learned(
        self,
        queries: Tensor,
        anchors: Tensor | None,
        memory: Memory,
        groups: int,
        capture: Capture,
    ) -> _Decoded:
        """DETR as published: learned positions, content from zero, boxes read off at the end."""
        content, features = torch.zeros_like(queries), []
        decoder_maps: Maps = {}
        cross_maps: Maps = {}
        for number, layer in enumerate(self.decoder):
            assert isinstance(layer, DecoderLayer)
            content, looked_around = layer.look_around(
                content, queries, groups, capture=number in capture.decoder
            )
            content, looked_at = layer.look_at_memory(
                content,
                queries,
                memory.positioned,
                memory.tokens,
                None,
                capture=number in capture.cross,
            )
            _keep(decoder_maps, number, looked_around)
            _keep(cross_maps, number, looked_at)
            features.append(content)
        stacked = self.decoder_norm(torch.stack(features if self.auxiliary else features[-1:]))
        return _Decoded(stacked, self.box_head(stacked).sigmoid(), decoder_maps, cross_maps)

    def _decode_anchors(
        self,
        queries: Tensor,
        anchors: Tensor | None,
        memory: Memory,
        groups: int,
        capture: Capture,
    ) -> _Decoded:
        """Every layer starts from the boxes of the layer before and moves them a little."""
        assert anchors is not None
        content = queries
        features, boxes = [], []
        decoder_maps: Maps = {}
        cross_maps: Maps = {}
        for number, layer in enumerate(self.decoder):
            assert isinstance(layer, DecoderLayer)
            anchors = anchors.detach()  # each layer answers for its own step only
            query_positions = self.anchor_positions(box_positions(anchors, content.shape[-1]))
            content, looked_around = layer.look_around(
                content, query_positions, groups, capture=number in capture.decoder
            )
            content, looked_at = layer.look_at_memory(
                content,
                query_positions,
                memory.positioned,
                memory.tokens,
                self.box_focus[number](content, anchors, memory.grid),
                capture=number in capture.cross,
            )
            _keep(decoder_maps, number, looked_around)
            _keep(cross_maps, number, looked_at)
            features.append(self.decoder_norm(content))
            anchors = (logit(anchors) + self.refinements[number](features[-1])).sigmoid()
            boxes.append(anchors)
        if not self.auxiliary:
            features, boxes = features[-1:], boxes[-1:]
        return _Decoded(torch.stack(features), torch.stack(boxes), decoder_maps, cross_maps)

    def _refine(
        self,
        tokens: Float[Tensor, "batch tokens dim"],
        grid: Grid,
        fine: Float[Tensor, "batch channels height width"],
    ) -> Memory:
        """The memory of the last frame on the finer grid."""
        cells, fine_grid = self.fine_memory(tokens[:, -grid.height * grid.width :], grid, fine)
        positions = grid_positions(fine_grid, self.config.hidden_dim).to(cells)
        return Memory(cells, cells + positions, fine_grid)

    def _propose(
        self, dense: Dense, memory: Memory, groups: int
    ) -> tuple[Float[Tensor, "batch queries dim"], Float[Tensor, "batch queries 4"]]:
        """The cells that answer best and their boxes, the same for every group, each of which
        projects them in its own way."""
        chosen = choose(dense, self.config.num_queries)
        clips = torch.arange(len(chosen), device=chosen.device)[:, None]
        cells = memory.tokens[clips, chosen]
        anchors = self.dense_head.boxes(cells, dense.cells_cxcywh[chosen])
        proposed = torch.cat([project(cells) for project in self.proposals[:groups]], 1)
        return proposed, anchors.repeat(1, groups, 1)


def _keep(maps: Maps, number: int, probabilities: Tensor | None) -> None:
    if probabilities is not None:
        maps[number] = probabilities
