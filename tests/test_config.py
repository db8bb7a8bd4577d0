"""The fields of a config."""

import pytest
from pydantic import ValidationError

from sonodetr.config import BackboneConfig, Config, DataConfig, ModelConfig
from sonodetr.config_file import parse_config
from sonodetr.files import InputError


def test_every_field_has_a_description():
    def check(section):
        for name, field in section.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                check(field.annotation)
            else:
                assert field.description, name

    check(Config)


def test_every_anchor_has_a_cell_to_start_from():
    """64 x 96 pixels are 4 x 6 cells at half of stride 32."""

    def config(num_queries, **model):
        shape = {"backbone": BackboneConfig(stride=32), "num_queries": num_queries, **model}
        return Config(data=DataConfig(image_size=(64, 96)), model=ModelConfig(**shape))

    config(24)
    with pytest.raises(ValidationError, match=r"are 24 cells .*num_queries 25"):
        config(25)
    config(25, queries="learned")  # which start from nowhere


def test_frames_of_a_clip_must_meet_somewhere():
    blind = {"data": {"clip_frames": 2}, "model": {"encoder_layers": 0}}
    with pytest.raises(InputError, match="without encoder layers frames never meet"):
        parse_config(blind)
    for able in (
        {"encoder_layers": 1},
        {"queries": "learned"},
        {"backbone": {"temporal": "mixing"}},
    ):
        parse_config(blind | {"model": blind["model"] | able})
