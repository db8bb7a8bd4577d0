"""What a student learns from a teacher: alignment, losses, teachers and cached targets."""
