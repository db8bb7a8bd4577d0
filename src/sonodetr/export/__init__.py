"""Trained models as files for ONNX Runtime and OpenVINO, checked against torch."""
