"""How a picture becomes a model's input."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image

_LONGEST_TO_SHORTEST = 16


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Short side to ``resize`` (bicubic, antialiased), centre crop of ``crop``, then (x / 255 - mean) / std."""

    resize: int  # pixels
    crop: int  # pixels
    mean: tuple[float, float, float]  # per channel, of values in 0..1
    std: tuple[float, float, float]

    def __call__(self, image: Image.Image) -> Float[np.ndarray, "3 crop crop"]:
        """Return an RGB picture as float32, channels first.

        Rounding of the long side and of the crop's corner follows the Hugging Face image processors, down to the
        pixel.
        """
        image = _without_far_ends(image)
        width, height = image.size
        short = min(width, height)
        scaled = image.resize(
            (int(width * self.resize / short), int(height * self.resize / short)), Image.Resampling.BICUBIC
        )
        left, top = (scaled.width - self.crop) // 2, (scaled.height - self.crop) // 2
        cropped = scaled.crop((left, top, left + self.crop, top + self.crop))
        scale = np.float32(1 / 255) / np.array(self.std, np.float32)
        shift = np.array(self.mean, np.float32) / np.array(self.std, np.float32)
        channels_last = np.asarray(cropped, np.float32) * scale - shift
        return np.ascontiguousarray(channels_last.transpose(2, 0, 1))


def _without_far_ends(image: Image.Image) -> Image.Image:
    """Cut a very long picture to its middle, which is all that the crop takes.

    Scaled as a whole, a line of 65,535 × 1 pixels would fill gigabytes.
    """
    short = min(image.size)
    width, height = (min(side, _LONGEST_TO_SHORTEST * short) for side in image.size)
    if (width, height) == image.size:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


IMAGENET = Preprocessing(256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""DINOv2's own k-NN evaluation: short side 256, crop 224, ImageNet mean and standard deviation."""

CLIP = Preprocessing(224, 224, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""OpenAI's CLIP."""

EFFICIENTNET_LITE = Preprocessing(256, 224, (127 / 255,) * 3, (128 / 255,) * 3)
"""EfficientNet-Lite, trained on (x - 127) / 128; the ImageNet constants cost it 9 points of top-1."""
