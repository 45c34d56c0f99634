"""The trainings that made the demonstration models; not in the wheel."""
