"""The fields of a config."""

import pytest
from pydantic import ValidationError

from sonodetr.config import BackboneConfig, Config, ModelConfig


def test_every_field_has_a_description():
    def check(section):
        for name, field in section.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                check(field.annotation)
            else:
                assert field.description, name

    check(Config)


def test_dense_proposals_need_a_finer_map():
    fine = BackboneConfig(stride=8)
    with pytest.raises(ValidationError, match=r"set backbone.stride to 16 or 32"):
        ModelConfig(proposals="dense", backbone=fine)
    for stride in (16, 32):
        ModelConfig(proposals="dense", backbone=BackboneConfig(stride=stride))
    ModelConfig(proposals="dense", backbone=fine, queries="learned")  # which have none
    ModelConfig(proposals="tokens", backbone=fine)
