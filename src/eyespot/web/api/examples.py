"""Examples in the documents: a real reply, and an image small enough to show."""

import base64
from pathlib import Path
from typing import Any

# The reply of EfficientNet-Lite0 to the sample image in the package.
RECOGNITION: dict[str, Any] = {
    "predictions": [
        {"class_id": 967, "wnid": "n07920052", "label": "espresso", "confidence": 0.935503},
        {"class_id": 968, "wnid": "n07930864", "label": "cup", "confidence": 0.017183},
        {"class_id": 925, "wnid": "n07584110", "label": "consomme", "confidence": 0.015088},
    ],
    "image": {
        "sha256": "a4b7d92019beb26605cb6f1d3d31242d91c9150fcc3a07c50e39b50271bc7c6f",
        "format": "JPEG",
        "width": 480,
        "height": 320,
    },
    "model": {
        "name": "efficientnet-lite0",
        "digest": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "engine": "openvino",
        "precision": "f32",
    },
    "cached": False,
    "request_id": "6f1c0e9ad3b14a57",
}
# The sample image again, as a PNG of 32 x 21 pixels, so that "Try it out" works as it stands.
SMALL_PNG = base64.b64encode((Path(__file__).parent / "example.png").read_bytes()).decode()
