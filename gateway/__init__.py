"""imagegate: an OpenAI-compatible gateway for image generation on MiniMax and 302.AI."""

from typing import Final

__version__: Final = "0.1.0"
