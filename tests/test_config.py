"""The fields of a config."""

import pytest
from pydantic import ValidationError

from sonodetr.config import BackboneConfig, Config, DataConfig, ModelConfig


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
