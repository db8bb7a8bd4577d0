"""The fields of a config."""

from sonodetr.config import Config


def test_every_field_has_a_description():
    def check(section):
        for name, field in section.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                check(field.annotation)
            else:
                assert field.description, name

    check(Config)
