"""medart: fine-tune a text-to-image model on a few hundred medical images, and measure it."""

__version__ = "0.1.0"
