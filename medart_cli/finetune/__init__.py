"""Train PixArt with HLDF: `medart finetune`. The loop is in train.py."""
