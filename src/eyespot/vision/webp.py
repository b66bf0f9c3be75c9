"""Pillow's WebP decoder, with less memory."""

from PIL import WebPImagePlugin


class WebPImageFile(WebPImagePlugin.WebPImageFile):
    """Frees libwebp's two canvases once it has a copy of the first frame."""

    def _get_next(self) -> tuple[bytes, int, int]:
        frame = super()._get_next()
        self._decoder = None
        return frame
