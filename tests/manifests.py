"""A manifest entry for small weights."""

import hashlib

CONTENT = bytes(range(256)) * 1200
ENTRY = f"""
architecture = "resnet18"
file = "net.pth"
sha256 = "{hashlib.sha256(CONTENT).hexdigest()}"
bytes = {len(CONTENT)}
labels = "imagenet1k"
license = "none"
recipe = {{ resize = 256, crop = 224, interpolation = "bilinear", mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }}
"""
PACKAGED = ENTRY.replace('file = "net.pth"', 'package = "skimage"\nfile = "__init__.py"')
