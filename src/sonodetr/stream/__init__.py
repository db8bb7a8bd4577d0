"""Live: from a scanner's stream to detections within a frame."""
