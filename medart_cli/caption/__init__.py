"""Describe each image with a vision-language model: `medart caption`."""
