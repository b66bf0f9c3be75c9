"""A manifest entry for small weights."""

import hashlib
import re

CONTENT = bytes(range(256)) * 1200
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ENTRY = f"""
architecture = "resnet18"
file = "net.pth"
sha256 = "{SHA256}"
bytes = {len(CONTENT)}
labels = "imagenet1k"
license = "none"
recipe = {{ resize = 256, crop = 224, interpolation = "bilinear", mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }}
"""
PUBLISHED = re.sub("(?m)^sha256.*", f'sha256_prefix = "{SHA256[:8]}"', re.sub("(?m)^bytes.*", "mib = 0.293", ENTRY))
"""As torchvision publishes them: the first digits of the sha256, and the size to 0.001 MiB."""
PACKAGED = ENTRY.replace('file = "net.pth"', 'package = "skimage"\nfile = "__init__.py"')
