"""`stylenat explore`: a page on which one walks through a model, and its two engines.

The page in `page/` computes ws from seeds, truncation, mixing and directions. An engine turns a
seed into w, and ws into pixels: Python behind a WebSocket (`server`), or ONNX Runtime in the
browser (`static`), which needs no server.
"""

from stylenat.explorer.gallery import Gallery
from stylenat.explorer.serving import serve
from stylenat.explorer.static import write_static

__all__ = ["Gallery", "serve", "write_static"]
